CPU := cortex-m4
