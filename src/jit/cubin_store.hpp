// CubinStore: where cubins come from: a kernel pack, the disk cache, the compiler. Needs no GPU.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "cuda/nvrtc.hpp"
#include "fathom/core/context.hpp"
#include "jit/disk_cache.hpp"
#include "jit/jit.hpp"
#include "jit/pack.hpp"

namespace fathom::jit {

/// Any number of threads may use one.
class CubinStore {
 public:
  struct Options {
    std::string cache_dir;    ///< as ContextOptions::cache_dir
    std::string kernel_pack;  ///< as ContextOptions::kernel_pack
    bool verbose = false;     ///< log where every kernel comes from
    std::string nvrtc;        ///< the compiler's file; empty: the usual names
  };
  /// Opens the pack. Throws FileError if one is named that is none.
  explicit CubinStore(Options options);

  enum class Origin { pack, disk, compiled };
  struct Found {
    Cubin cubin;
    Origin origin;
  };
  /// Compiles what is in neither the pack nor the cache; in mode cached_only that is an EnvironmentError.
  Found get(const Source& source, const std::string& arch, CompileMode mode = CompileMode::run);

  /// "the kernel pack /opt/fathom.pack nor in /home/u/.cache/fathom"
  std::string places();
  const std::optional<KernelPack>& pack() const { return pack_; }
  DiskCache& disk();
  const cuda::Nvrtc& nvrtc();  // throws EnvironmentError without one

 private:
  std::optional<std::vector<std::byte>> from_pack(const Source& source, const std::string& arch);

  Options options_;
  std::optional<KernelPack> pack_;
  std::once_flag disk_once_;
  std::optional<DiskCache> disk_;
  std::once_flag nvrtc_once_;
  cuda::NvrtcProbe nvrtc_;
};

/// "13.0", as keys have it.
std::string version_of(const cuda::Nvrtc& nvrtc);

/// Calls body(i) for every i in [0, count) on `threads` threads; NVRTC compiles on all of them at once. The
/// first exception stops the rest and reaches the caller.
void on_all_cores(std::size_t count, int threads, const std::function<void(std::size_t)>& body);

}  // namespace fathom::jit
