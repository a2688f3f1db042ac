#include "ops/simt_kernel.hpp"

#include <fmt/format.h>

namespace fathom {

jit::Source simt_source(const SimtKernel& kernel) {
  return {kernel.name, fmt::format("#include \"{}\"\n"
                                   "extern \"C\" __global__ void __launch_bounds__({}, {})\n"
                                   "fathom_kernel(const __grid_constant__ fathom::{} args) {{\n"
                                   "  static_assert(sizeof(fathom::{}) == {});\n"
                                   "  fathom::{}(args);\n}}\n",
                                   kernel.header, kernel.threads, kernel.blocks, kernel.args, kernel.args,
                                   kernel.args_bytes, kernel.function)};
}

}  // namespace fathom
