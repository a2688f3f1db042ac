// launch: puts a kernel on a stream. Allocates nothing, reads no environment, takes no lock of ours.
#pragma once
#include <cstdint>

#include "cuda/device_context.hpp"
#include "cuda/driver_types.hpp"

namespace fathom::cuda {

struct LaunchConfig {
  Dim3 grid;
  Dim3 block;
  Dim3 cluster;                   // blocks of a cluster; 1x1x1: none
  std::int64_t shared_bytes = 0;  // dynamic
  /// Programmatic dependent launch: the kernel may start before the one ahead of it in the stream is done,
  /// and waits by itself (griddepcontrol.wait).
  bool pdl = false;
};

/// A kernel of the context's device, with its parameters by address. Throws CudaError; `name` is the
/// kernel's, for the message.
void launch_kernel(FunctionHandle function, const char* name, const LaunchConfig& config,
                   const Context& context, void** parameters);

/// As launch_kernel; the arguments must be exactly of the kernel's parameter types.
template <class... A>
void launch(FunctionHandle function, const char* name, const LaunchConfig& config, const Context& context,
            const A&... arguments) {
  void* parameters[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  launch_kernel(function, name, config, context, parameters);
}

}  // namespace fathom::cuda
