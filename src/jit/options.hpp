// What every kernel is compiled with. All of it enters the key.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fathom::jit {

/// Changes with the layout of cache entries or of keys.
inline constexpr std::string_view kCacheFormat = "fathom-kernel-1";

inline std::vector<std::string> compile_options(std::string_view arch) {
  return {"--gpu-architecture=" + std::string(arch), "--std=c++20",
          // kernels/layout is compiled by the host as well, so its functions say nothing of devices.
          "--device-as-default-execution-space",
          // A product and a sum are fused where the source says so, and only there.
          "--fmad=false",
          // Registers and spills, in the log.
          "--ptxas-options=-v"};
}

}  // namespace fathom::jit
