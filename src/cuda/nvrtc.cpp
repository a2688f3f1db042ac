#include "cuda/nvrtc.hpp"

#include "cuda/library.hpp"

namespace fathom::cuda {

void Nvrtc::check(Result status, std::string_view call, std::string_view doing) const {
  if (status == kSuccess) return;
  throw CudaError(std::string(call) + ": " + nvrtcGetErrorString(status) + " while " + std::string(doing),
                  status);
}

NvrtcProbe find_nvrtc(const std::string& path) {
  Library library =
      path.empty()
          ? Library({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "/usr/local/cuda/lib64/libnvrtc.so"})
          : Library({path});
  if (!library.found()) return {nullptr, library.detail()};
  auto nvrtc = std::make_shared<Nvrtc>();
#define FATHOM_CUDA_FIND(name, ...) library.find(#name, nvrtc->name);
  FATHOM_CUDA_NVRTC(FATHOM_CUDA_FIND)
#undef FATHOM_CUDA_FIND
  library.find("nvrtcGetErrorString", nvrtc->nvrtcGetErrorString);
  if (!library.missing().empty()) return {nullptr, library.detail() + " lacks " + library.missing()};
  if (nvrtc->nvrtcVersion(&nvrtc->major, &nvrtc->minor) != kSuccess) {
    return {nullptr, library.detail() + " does not say its version"};
  }
  const std::string version = std::to_string(nvrtc->major) + "." + std::to_string(nvrtc->minor);
  if (nvrtc->major * 100 + nvrtc->minor < 1203) {
    return {nullptr, library.detail() + " is of CUDA " + version + "; 12.3 or newer is needed"};
  }
  // NVRTC opens this one by name when it compiles. That of CUDA 13 does not look into its own folder.
  library.open_beside(nvrtc->nvrtcVersion, "libnvrtc-builtins.so." + version);
  return {std::move(nvrtc), library.detail() + ", version " + version};
}

std::shared_ptr<const Nvrtc> load_nvrtc(std::string_view doing, const std::string& path) {
  NvrtcProbe probe = find_nvrtc(path);
  if (probe.nvrtc == nullptr) {
    throw CudaError("the run-time compiler NVRTC cannot be used: " + probe.detail + "; it is needed for " +
                        std::string(doing),
                    kErrorNoDevice);
  }
  return std::move(probe.nvrtc);
}

}  // namespace fathom::cuda
