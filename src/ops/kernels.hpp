// What device code an op would launch: asked by kernel packs, warm-ups and the test that compiles every
// kernel, none of which has tensors or a GPU.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver.hpp"
#include "jit/jit.hpp"

namespace fathom {

/// The sources of every kernel that the op's CUDA implementations could launch for a problem on a device:
/// that of the best one that takes the problem, and that of cuda:simt, which takes what the best one declines
/// for its strides or addresses. Pure. Throws InvalidArgument if the text is no problem of the op.
using KernelSources = std::vector<jit::Source>(std::string_view problem, const cuda::DeviceInfo& device);

/// An op with SIMT or SM90 in src/ops/CMakeLists.txt, and its function <op>_kernels.
struct OpKernels {
  std::string_view op;
  KernelSources* sources;
};
std::span<const OpKernels> op_kernels();

/// The sources for all of these problems, each once, sorted by name. An op without device code has none.
/// Throws InvalidArgument if there is no such op.
std::vector<jit::Source> kernel_sources(std::span<const std::string> problems,
                                        const cuda::DeviceInfo& device);

/// A usual device of an architecture: "sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120". Throws InvalidArgument
/// for another.
const cuda::DeviceInfo& usual_device(std::string_view arch);

}  // namespace fathom
