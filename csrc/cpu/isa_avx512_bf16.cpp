#define ISA_NAME fused_inr_avx512_bf16
#define ISA_TABLE fused_inr_table_avx512_bf16
#include "isa.h"
