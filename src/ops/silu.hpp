// SiLU as host code finds it: one text with the device's, in kernels/layout/silu.cuh.
#pragma once
#include "layout/silu.cuh"
