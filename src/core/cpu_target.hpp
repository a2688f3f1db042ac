// Which instruction set the CPU backend uses. A property of the process, fixed before the first op runs.
#pragma once

namespace fathom {

/// Applies FATHOM_CPU_TARGET once. Throws InvalidArgument, listing what this CPU has, if the name is none of
/// them.
void select_cpu_target();

/// True if the AVX-512 BF16 + VBMI loops (one file of intrinsics, not Highway's) are in use.
bool has_avx512_bf16();

}  // namespace fathom
