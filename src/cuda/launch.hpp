// launch: puts a kernel on a stream. Allocates nothing, reads no environment, takes no lock of ours.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

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

/// While it lives, the names of the kernels that this thread launches: the driver calls them all alike. At
/// most one for each thread.
class LaunchNames {
 public:
  LaunchNames();
  ~LaunchNames();
  LaunchNames(const LaunchNames&) = delete;
  LaunchNames& operator=(const LaunchNames&) = delete;
  const std::vector<std::string>& names() const { return names_; }
  void add(const char* name) { names_.emplace_back(name); }

 private:
  std::vector<std::string> names_;
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
