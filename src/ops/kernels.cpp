#include "ops/kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"
#include "fathom/ops/kernels.hpp"
#include "jit/cubin_store.hpp"
#include "jit/kernel_cache.hpp"
#include "jit/pack.hpp"

namespace fathom {
namespace {

struct UsualDevice {
  std::string_view arch;
  cuda::DeviceInfo info;
};

constexpr std::int64_t operator""_KiB(unsigned long long value) {
  return static_cast<std::int64_t>(value) << 10;
}

const std::array<UsualDevice, 5>& usual_devices() {
  static const std::array<UsualDevice, 5> devices{{
      {"sm_80",
       {.sm_major = 8,
        .sm_minor = 0,
        .num_sms = 108,
        .l2_bytes = 40960_KiB,
        .shared_bytes_per_block = 163_KiB,
        .shared_bytes_per_sm = 164_KiB,
        .name = "A100"}},
      {"sm_89",
       {.sm_major = 8,
        .sm_minor = 9,
        .num_sms = 142,
        .l2_bytes = 98304_KiB,
        .shared_bytes_per_block = 99_KiB,
        .shared_bytes_per_sm = 100_KiB,
        .name = "L40"}},
      {"sm_90a",
       {.sm_major = 9,
        .sm_minor = 0,
        .num_sms = 132,
        .l2_bytes = 51200_KiB,
        .shared_bytes_per_block = 227_KiB,
        .shared_bytes_per_sm = 228_KiB,
        .name = "H200"}},
      {"sm_100a",
       {.sm_major = 10,
        .sm_minor = 0,
        .num_sms = 148,
        .l2_bytes = 129024_KiB,
        .shared_bytes_per_block = 227_KiB,
        .shared_bytes_per_sm = 228_KiB,
        .name = "B200"}},
      {"sm_120",
       {.sm_major = 12,
        .sm_minor = 0,
        .num_sms = 188,
        .l2_bytes = 131072_KiB,
        .shared_bytes_per_block = 99_KiB,
        .shared_bytes_per_sm = 100_KiB,
        .name = "RTX PRO 6000"}},
  }};
  return devices;
}

/// Counts kernels as they get ready, and tells.
class Counter {
 public:
  Counter(std::size_t total, const KernelProgress& progress)
      : total_(static_cast<std::int64_t>(total)), progress_(progress) {
    if (progress_) progress_(0, total_);
  }
  void one_more() {
    const std::lock_guard lock(mutex_);
    ++done_;
    if (progress_) progress_(done_, total_);
  }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::int64_t done_ = 0;
  std::int64_t total_;
  const KernelProgress& progress_;
};

jit::CubinStore::Options store_options(const Context& context) {
  return {context.options().cache_dir, context.options().kernel_pack, context.verbose("jit"), {}};
}

// The context's own device if `arch` is its architecture.
cuda::DeviceInfo device_for(std::string_view arch, const Context& context) {
  const bool own = context.device().kind == DeviceKind::cuda && kernel_architecture(context) == arch;
  return own ? cuda::device_context(context).info() : usual_device(arch);
}

}  // namespace

const cuda::DeviceInfo& usual_device(std::string_view arch) {
  std::string known;
  for (const UsualDevice& device : usual_devices()) {
    if (device.arch == arch) return device.info;
    known += (known.empty() ? "" : ", ") + std::string(device.arch);
  }
  throw InvalidArgument(fmt::format("the architecture must be one of {}; got '{}'", known, arch));
}

std::span<const std::string_view> kernel_architectures() {
  static const std::array<std::string_view, 5> names = [] {
    std::array<std::string_view, 5> list;
    std::ranges::transform(usual_devices(), list.begin(), &UsualDevice::arch);
    return list;
  }();
  return names;
}

std::string kernel_architecture(const Context& context) {
  const cuda::DeviceInfo& info = cuda::device_context(context).info();
  return jit::arch_name(info.sm_major, info.sm_minor);
}

std::vector<jit::Source> kernel_sources(std::span<const std::string> problems,
                                        const cuda::DeviceInfo& device) {
  std::map<std::string, jit::Source> by_text;
  for (const std::string& problem : problems) {
    const std::string_view op = std::string_view(problem).substr(0, problem.find(':'));
    const auto has_name = [op](const OpInfo* info) { return info->name == op; };
    if (std::ranges::none_of(all_ops(), has_name))
      throw InvalidArgument(fmt::format("there is no op '{}'", op));
    const auto found = std::ranges::find(op_kernels(), op, &OpKernels::op);
    if (found == op_kernels().end()) continue;
    for (jit::Source& source : found->sources(problem, device)) {
      std::string text = source.text;
      by_text.emplace(std::move(text), std::move(source));
    }
  }
  std::vector<jit::Source> sources;
  for (auto& [text, source] : by_text) sources.push_back(std::move(source));
  std::ranges::stable_sort(sources, {}, &jit::Source::name);
  return sources;
}

KernelBuild build_kernel_pack(const std::filesystem::path& file, std::span<const std::string> problems,
                              std::string_view arch, const Context& context, const KernelProgress& progress) {
  const std::vector<jit::Source> sources = kernel_sources(problems, device_for(arch, context));
  const auto nvrtc = cuda::load_nvrtc("building a kernel pack");
  const std::string version = jit::version_of(*nvrtc);
  std::vector<jit::PackInput> kernels(sources.size());
  Counter counter(sources.size(), progress);
  jit::on_all_cores(sources.size(), context.threads(), [&](std::size_t i) {
    jit::Cubin cubin = jit::compile(sources[i], std::string(arch), *nvrtc);
    kernels[i] = {sources[i].name, cubin.arch, jit::cache_key(sources[i], arch, version),
                  std::move(cubin.bytes)};
    counter.one_more();
  });
  jit::write_pack(file, std::move(kernels), version);
  const auto count = static_cast<std::int64_t>(sources.size());
  return {count, count, counter.seconds(), file.string()};
}

KernelBuild warm_up_kernels(std::span<const std::string> problems, std::string_view arch,
                            const Context& context, const KernelProgress& progress) {
  const std::vector<jit::Source> sources = kernel_sources(problems, device_for(arch, context));
  jit::CubinStore store(store_options(context));
  std::atomic<std::int64_t> compiled{0};
  Counter counter(sources.size(), progress);
  jit::on_all_cores(sources.size(), context.threads(), [&](std::size_t i) {
    const auto found = store.get(sources[i], std::string(arch));
    if (found.origin == jit::CubinStore::Origin::compiled) ++compiled;
    counter.one_more();
  });
  std::string place = store.disk().usable() ? store.disk().directory() : "";
  if (store.pack()) place = store.pack()->origin() + (place.empty() ? "" : " and " + place);
  return {static_cast<std::int64_t>(sources.size()), compiled, counter.seconds(), std::move(place)};
}

KernelPackInfo read_kernel_pack(const std::filesystem::path& file, bool verify) {
  const jit::KernelPack pack = jit::KernelPack::open(file);
  KernelPackInfo info{pack.fathom_version(), pack.nvrtc_version(), pack.total_bytes(), {}};
  for (const jit::PackEntry& entry : pack.entries()) {
    if (verify) pack.payload(entry);
    info.kernels.push_back({entry.name, entry.arch, entry.key, entry.bytes});
  }
  std::ranges::sort(info.kernels, {}, [](const PackedKernel& k) { return std::tie(k.arch, k.name, k.key); });
  return info;
}

KernelPlaces kernel_places(const Context& context) {
  KernelPlaces places{"none: neither FATHOM_CACHE_DIR nor XDG_CACHE_HOME nor HOME names a folder", "none"};
  const std::string& given = context.options().cache_dir;
  if (const std::string folder = given.empty() ? jit::DiskCache::default_directory() : given;
      !folder.empty()) {
    std::int64_t kernels = 0;
    std::uintmax_t bytes = 0;
    std::error_code error;  // a folder that cannot be read holds nothing
    for (auto at = std::filesystem::directory_iterator(folder, error);
         !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
      if (at->path().extension() != ".cubin") continue;
      ++kernels;
      std::error_code ignored;
      if (const auto size = at->file_size(ignored); !ignored) bytes += size;
    }
    places.cache = fmt::format("{}, {} kernels, {} bytes", folder, kernels, bytes);
  }
  try {
    if (const auto pack = jit::find_pack(context.options().kernel_pack)) {
      places.pack = fmt::format("{}, {} kernels of NVRTC {}", pack->origin(), pack->entries().size(),
                                pack->nvrtc_version());
    }
  } catch (const FileError& error) {
    places.pack = fmt::format("not usable: {}", error.what());
  }
  return places;
}

}  // namespace fathom
