#include "jit/cubin_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "core/log.hpp"

namespace fathom::jit {

std::string version_of(const cuda::Nvrtc& nvrtc) { return fmt::format("{}.{}", nvrtc.major, nvrtc.minor); }

CubinStore::CubinStore(Options options)
    : options_(std::move(options)), pack_(find_pack(options_.kernel_pack)) {}

DiskCache& CubinStore::disk() {
  std::call_once(disk_once_, [this] { disk_.emplace(options_.cache_dir); });
  return *disk_;
}

const cuda::Nvrtc& CubinStore::nvrtc() {
  std::call_once(nvrtc_once_, [this] { nvrtc_ = cuda::find_nvrtc(options_.nvrtc); });
  if (nvrtc_.nvrtc == nullptr) {
    throw EnvironmentError("the run-time compiler NVRTC cannot be used: " + nvrtc_.detail);
  }
  return *nvrtc_.nvrtc;
}

std::string CubinStore::places() {
  const std::string folder = disk().usable() ? disk().directory() : "a folder (there is none)";
  return pack_ ? fmt::format("the kernel pack {} nor in {}", pack_->origin(), folder)
               : fmt::format("a kernel pack (there is none) nor in {}", folder);
}

std::optional<std::vector<std::byte>> CubinStore::from_pack(const Source& source, const std::string& arch) {
  if (!pack_) return {};
  // With the pack's compiler in the key, not this machine's: which may have none.
  const PackEntry* entry = pack_->find(cache_key(source, arch, pack_->nvrtc_version()));
  if (entry == nullptr) return {};
  try {
    const auto bytes = pack_->payload(*entry);
    return std::vector(bytes.begin(), bytes.end());
  } catch (const FileError& error) {
    log_warning(fmt::format("{}; it is not used", error.what()));
    return {};
  }
}

CubinStore::Found CubinStore::get(const Source& source, const std::string& arch, CompileMode mode) {
  const auto start = std::chrono::steady_clock::now();
  Found found{{source.name, arch, {}, {}}, Origin::pack};
  if (auto packed = from_pack(source, arch)) {
    found.cubin.bytes = *std::move(packed);
  } else {
    const auto missing = [&](std::string_view why) {
      return EnvironmentError(
          fmt::format("kernel {} for {} is neither in {}{}", source.name, arch, places(), why));
    };
    found.origin = Origin::disk;
    try {
      nvrtc();
    } catch (const EnvironmentError& error) {
      throw missing(fmt::format(", and {}", error.what()));
    }
    const std::string key = cache_key(source, arch, version_of(nvrtc()));
    if (mode == CompileMode::cached_only) {
      auto bytes = disk().load(source.name, key);
      if (!bytes) throw missing(", and in this mode none is compiled; `fathom warmup` does that ahead");
      found.cubin.bytes = *std::move(bytes);
    } else {
      found.cubin.bytes = disk().load_or_make(source.name, key, [&] {
        Cubin cubin = compile(source, arch, nvrtc());
        found.origin = Origin::compiled;
        found.cubin.log = std::move(cubin.log);
        return std::move(cubin.bytes);
      });
    }
  }
  if (options_.verbose) {
    constexpr std::string_view kFrom[] = {"from the pack", "from the disk cache", "compiled"};
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    log_info(fmt::format("kernel {} for {}: {} in {:.1f} ms, {} bytes", source.name, arch,
                         kFrom[static_cast<int>(found.origin)], took.count(), found.cubin.bytes.size()));
  }
  return found;
}

void on_all_cores(std::size_t count, int threads, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        body(i);
      } catch (...) {
        next = count;
        const std::lock_guard lock(mutex);
        if (failure == nullptr) failure = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> workers;  // joined here, also if the system gives no more of them
    try {
      for (std::size_t i = 1; i < std::min(count, static_cast<std::size_t>(std::max(threads, 1))); ++i)
        workers.emplace_back(work);
    } catch (const std::system_error&) {  // then with fewer
    }
    work();
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace fathom::jit
