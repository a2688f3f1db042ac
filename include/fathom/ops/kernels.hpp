// Compiling device code ahead of its use: kernel packs and warm-ups. Neither needs a GPU.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/context.hpp"

namespace fathom {

/// Called after every kernel, by one thread at a time.
using KernelProgress = std::function<void(std::int64_t done, std::int64_t total)>;

struct KernelBuild {
  std::int64_t kernels = 0;   ///< that the problems need
  std::int64_t compiled = 0;  ///< of these, now; the others were there
  double seconds = 0;
  std::string place;  ///< where they are: a folder, a file, "PACK and FOLDER"; empty: nowhere
};

/// The architectures that packs can be built for: "sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120".
std::span<const std::string_view> kernel_architectures();
/// That of the context's device. Throws InvalidArgument if that is the host.
std::string kernel_architecture(const Context& context);

/// Compiles what `problems` ("fp8_gemm_nt:m=1,n=4096,k=7168") need on `arch` into one file, on
/// context.threads() threads. Throws InvalidArgument, FileError, or EnvironmentError if NVRTC is missing or
/// refuses a kernel.
KernelBuild build_kernel_pack(const std::filesystem::path& file, std::span<const std::string> problems,
                              std::string_view arch, const Context& context,
                              const KernelProgress& progress = {});

/// Compiles what is neither in the kernel pack nor in the cache of `context`, into the cache. Throws as
/// build_kernel_pack().
KernelBuild warm_up_kernels(std::span<const std::string> problems, std::string_view arch,
                            const Context& context, const KernelProgress& progress = {});

struct PackedKernel {
  std::string name;
  std::string arch;
  std::string key;
  std::int64_t bytes = 0;
};
struct KernelPackInfo {
  std::string fathom_version;
  std::string nvrtc_version;
  std::int64_t file_bytes = 0;
  std::vector<PackedKernel> kernels;  ///< sorted by architecture and name
};
/// What a pack says of itself; with `verify` every kernel's SHA-256 is checked. Throws FileError.
KernelPackInfo read_kernel_pack(const std::filesystem::path& file, bool verify = false);

/// One line each about the compiled kernels that `context` would use: the cache's folder, the pack. Changes
/// nothing.
struct KernelPlaces {
  std::string cache;
  std::string pack;
};
KernelPlaces kernel_places(const Context& context);

}  // namespace fathom
