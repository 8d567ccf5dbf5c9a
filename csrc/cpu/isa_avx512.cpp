#define ISA_NAME fused_inr_avx512
#define ISA_TABLE fused_inr_table_avx512
#include "isa.h"
