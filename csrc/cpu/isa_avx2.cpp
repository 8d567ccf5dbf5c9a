#define ISA_NAME fused_inr_avx2
#define ISA_TABLE fused_inr_table_avx2
#include "isa.h"
