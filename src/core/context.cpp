#include "fathom/core/context.hpp"

#include <tbb/global_control.h>
#include <tbb/info.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>

#include "core/cpu_target.hpp"
#include "core/device_state.hpp"
#include "core/option_names.hpp"
#include "core/team.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {
constexpr std::array kEnvironment{
    EnvironmentVariable{"FATHOM_DEVICE", "cpu", "where ops run: cpu, cuda or cuda:N"},
    EnvironmentVariable{"FATHOM_THREADS", "0", "threads a context uses; 0: one per core"},
    EnvironmentVariable{"FATHOM_STRICT", "0", "1: refuse to run a slow fallback implementation"},
    EnvironmentVariable{
        "FATHOM_FORCE_IMPL", "",
        "run these implementations or fail, a comma list, e.g. fp8_gemm_nt=ref:any; see `fathom info`"},
    EnvironmentVariable{"FATHOM_VERBOSE", "", "comma list of dispatch, jit, time"},
    EnvironmentVariable{"FATHOM_LINEAR_ALGORITHM", "auto",
                        "algorithm of linear_bf16_fp32: auto, native, cublaslt, cpu"},
    EnvironmentVariable{"FATHOM_INVARIANT", "0",
                        "1: decode calls run in the prefill class, so that a row has the same bytes in both"},
    EnvironmentVariable{"FATHOM_DEPENDENT_LAUNCH", "0",
                        "1: products fetch weights while the kernel before them still runs"},
    EnvironmentVariable{"FATHOM_CPU_TARGET", "", "instruction set of the CPU backend; see `fathom info`"},
    EnvironmentVariable{"FATHOM_CACHE_DIR", "",
                        "folder of compiled kernels; else $XDG_CACHE_HOME/fathom, $HOME/.cache/fathom"},
    EnvironmentVariable{"FATHOM_KERNEL_PACK", "",
                        "file of `fathom kernels build`; else one beside the library"},
    EnvironmentVariable{"FATHOM_CUPTI", "",
                        "NVIDIA's libcupti, for `fathom bench` on a device; else the usual places"},
};

std::string environment(std::string_view name) {
  const char* value = std::getenv(std::string(name).c_str());
  return value ? value : "";
}

int integer_variable(std::string_view name, int least, int most) {
  const std::string text = environment(name);
  if (text.empty()) return 0;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    throw InvalidArgument(std::string(name) + " must be a number from " + std::to_string(least) + " to " +
                          std::to_string(most) + ", got '" + text + "'");
  }
  return value;
}

void check_verbose(const std::string& list) {
  std::string_view rest = list;
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view topic = rest.substr(0, comma);
    if (topic != "dispatch" && topic != "jit" && topic != "time") {
      throw InvalidArgument("FATHOM_VERBOSE must be a comma list of dispatch, jit, time; got '" + list + "'");
    }
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
}
}  // namespace

std::span<const EnvironmentVariable> environment_variables() { return kEnvironment; }
std::string_view version() { return FATHOM_VERSION; }

constexpr int kMaxThreads = 4096;

ContextOptions ContextOptions::from_environment() {
  ContextOptions options;
  if (const std::string device = environment("FATHOM_DEVICE"); !device.empty()) options.device = device;
  options.threads = integer_variable("FATHOM_THREADS", 0, kMaxThreads);
  options.strict = integer_variable("FATHOM_STRICT", 0, 1) == 1;
  options.force_implementation = environment("FATHOM_FORCE_IMPL");
  options.verbose = environment("FATHOM_VERBOSE");
  if (const std::string name = environment("FATHOM_LINEAR_ALGORITHM"); !name.empty())
    options.linear_algorithm = name;
  options.invariant = integer_variable("FATHOM_INVARIANT", 0, 1) == 1;
  options.dependent_launch = integer_variable("FATHOM_DEPENDENT_LAUNCH", 0, 1) == 1;
  options.cache_dir = environment("FATHOM_CACHE_DIR");
  options.kernel_pack = environment("FATHOM_KERNEL_PACK");
  return options;
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  constexpr std::string_view kPrefix = "cuda";
  if (text == kPrefix) return {DeviceKind::cuda, 0};
  Device device{DeviceKind::cuda, 0};
  if (text.substr(0, kPrefix.size() + 1) == "cuda:") {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + kPrefix.size() + 1, end, device.index);
    if (error == std::errc{} && stop == end && device.index >= 0) return device;
  }
  throw InvalidArgument("Context: 'device' must be cpu, cuda or cuda:N, got '" + std::string(text) + "'");
}

// Finds an op and implementation without making strings of them: counting is on the path of every fallback.
struct ByNames {
  using is_transparent = void;
  using Names = std::pair<std::string_view, std::string_view>;
  bool operator()(const auto& left, const auto& right) const {
    return Names(left.first, left.second) < Names(right.first, right.second);
  }
};

struct Context::Impl {
  Impl(const ContextOptions& given, std::shared_ptr<DeviceState> state)
      : device_state(std::move(state)),
        options(given),
        team(given.threads > 0 ? given.threads : tbb::info::default_concurrency()) {
    // TBB makes no more workers than there are cores unless told to. The smallest control wins, so none for
    // the common case.
    if (team.threads() > tbb::info::default_concurrency()) {
      parallelism.emplace(tbb::global_control::max_allowed_parallelism,
                          static_cast<std::size_t>(team.threads()));
    }
  }

  std::shared_ptr<DeviceState> device_state;
  ContextOptions options;
  std::atomic<CompileMode> compile_mode = options.compile_mode;
  std::optional<tbb::global_control> parallelism;
  Team team;
  std::mutex mutex;
  std::map<std::pair<std::string, std::string>, std::int64_t, ByNames> fallbacks;
};

Context::Context() : Context(ContextOptions::from_environment()) {}

Context::Context(const ContextOptions& options)
    : Context(options, parse_device(options.device).kind == DeviceKind::cuda
                           ? open_device(parse_device(options.device))
                           : nullptr) {}

Context::Context(const ContextOptions& options, std::shared_ptr<DeviceState> device_state)
    : device_(device_state != nullptr ? device_state->device() : Device{}) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw InvalidArgument("Context: 'threads' must be from 0 to 4096, got " +
                          std::to_string(options.threads));
  }
  check_verbose(options.verbose);
  check_linear_algorithm(options.linear_algorithm);
  check_forced_implementation(options.force_implementation);
  select_cpu_target();
  impl_ = std::make_shared<Impl>(options, std::move(device_state));
}

const std::shared_ptr<DeviceState>& Context::device_state() const { return impl_->device_state; }

Context Context::on_stream(void* stream) const {
  if (device_.kind != DeviceKind::cuda) {
    throw InvalidArgument("Context: on_stream needs a CUDA device, the context's device is cpu");
  }
  Context copy = *this;
  copy.stream_ = stream;
  return copy;
}

int Context::threads() const { return impl_->team.threads(); }
const ContextOptions& Context::options() const { return impl_->options; }

CompileMode Context::compile_mode() const { return impl_->compile_mode.load(std::memory_order_relaxed); }
void Context::set_compile_mode(CompileMode mode) {
  impl_->compile_mode.store(mode, std::memory_order_relaxed);
}

bool Context::verbose(std::string_view topic) const {
  return impl_->options.verbose.find(topic) != std::string::npos;
}

void Context::parallel_for(std::int64_t count, std::int64_t grain, RangeBody body) const {
  impl_->team.run(count, grain, body);
}

void Context::count_fallback(std::string_view op, std::string_view implementation) const {
  const std::lock_guard lock(impl_->mutex);
  if (const auto found = impl_->fallbacks.find(ByNames::Names(op, implementation));
      found != impl_->fallbacks.end()) {
    ++found->second;
  } else {
    impl_->fallbacks.emplace(std::pair(std::string(op), std::string(implementation)), 1);
  }
}

std::vector<FallbackCount> Context::fallbacks() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<FallbackCount> counts;
  for (const auto& [key, count] : impl_->fallbacks) counts.push_back({key.first, key.second, count});
  return counts;
}

}  // namespace fathom
