#define ISA_NAME fused_inr_base
#define ISA_TABLE fused_inr_table_base
#include "isa.h"
