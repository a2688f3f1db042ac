// Context: where work runs and how it is reported. There is no other state.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fathom/core/tensor.hpp"

namespace fathom {

/// What happens to device code that an op needs.
enum class CompileMode {
  run,           ///< taken from a kernel pack or the cache, compiled if it is in neither, and launched
  compile_only,  ///< the same but not launched: ops touch none of their tensors. What a warm-up runs in.
  cached_only,   ///< never compiled: a kernel that is in neither is an error. What a strict server runs in.
};

class DeviceState;

struct ContextOptions {
  std::string device = "cpu";             ///< where ops run: "cpu", "cuda" (the first device) or "cuda:N"
  int threads = 0;                        ///< 0: one per core this process may use
  bool strict = false;                    ///< refuse an implementation that is only a fallback
  std::string force_implementation;       ///< run this implementation or fail; empty: choose
  std::string verbose;                    ///< comma list of: dispatch, jit, time
  std::string linear_algorithm = "auto";  ///< see fathom/ops/linear_bf16_fp32.hpp
  /// Every call runs in the prefill class, `decode` or not, so that a row has the same bytes in both; costs
  /// time where few rows meet few weights (fathom/ops/fp8_gemm_nt.hpp).
  bool invariant = false;
  /// Matrix products may start while the kernel ahead of them in the stream still runs, and fetch weights and
  /// their scales meanwhile: these must not be written by work that is still under way. All else waits.
  bool dependent_launch = false;
  CompileMode compile_mode = CompileMode::run;
  std::string cache_dir;    ///< of compiled kernels; empty: $XDG_CACHE_HOME/fathom or $HOME/.cache/fathom
  std::string kernel_pack;  ///< a file of `fathom kernels build`; empty: fathom.pack beside the library

  /// The options as the environment variables of environment_variables() set them.
  static ContextOptions from_environment();
};

/// A fallback that ran: an op, the implementation that took it, and how often.
struct FallbackCount {
  std::string op;
  std::string implementation;
  std::int64_t count = 0;
};

/// A callable body(begin, end) that is referred to, not owned: it costs no allocation and lives as long as
/// the callable it was made from.
class RangeBody {
 public:
  template <class Body>
  requires(!std::is_same_v<std::remove_cvref_t<Body>, RangeBody> &&
           std::is_object_v<std::remove_reference_t<Body>> &&
           std::is_invocable_v<Body&, std::int64_t, std::int64_t>)
      RangeBody(Body&& body)  // implicit, so that a lambda can be passed
      : body_(const_cast<void*>(static_cast<const void*>(std::addressof(body)))),
        call_([](void* callable, std::int64_t begin, std::int64_t end) {
          (*static_cast<std::remove_reference_t<Body>*>(callable))(begin, end);
        }) {}
  void operator()(std::int64_t begin, std::int64_t end) const { call_(body_, begin, end); }

 private:
  void* body_;
  void (*call_)(void*, std::int64_t, std::int64_t);
};

/// Copies share everything: threads, device, counters. A copy is as cheap as a shared_ptr. Any thread may use
/// a Context.
class Context {
 public:
  /// Reads ContextOptions::from_environment(). Throws InvalidArgument if a variable has a value that means
  /// nothing, CudaError if the device cannot be used.
  Context();
  explicit Context(const ContextOptions& options);
  /// For a device state that exists already; null for the host. `options.device` is not read.
  Context(const ContextOptions& options, std::shared_ptr<DeviceState> device_state);

  /// Where ops run. The tensors of every call live there.
  Device device() const { return device_; }
  /// The CUstream that CUDA ops run on; null: the device's default stream, and on the host.
  void* stream() const { return stream_; }
  /// This context with ops on another CUstream of its device, which the caller keeps alive. Throws
  /// InvalidArgument on the host.
  Context on_stream(void* stream) const;
  /// What src/cuda keeps for the device; null on the host.
  const std::shared_ptr<DeviceState>& device_state() const;

  int threads() const;
  const ContextOptions& options() const;
  bool verbose(std::string_view topic) const;

  /// ContextOptions::compile_mode to begin with. Any thread may set it; it holds for the calls that follow.
  CompileMode compile_mode() const;
  void set_compile_mode(CompileMode mode);

  /// Runs body(begin, end) over [0, count) on this context's threads, in pieces of about `grain` and more,
  /// none empty. Exceptions reach the caller. A body must not wait for another thread that uses this context.
  void parallel_for(std::int64_t count, std::int64_t grain, RangeBody body) const;

  /// Counts an implementation that ran although a better one declined.
  void count_fallback(std::string_view op, std::string_view implementation) const;
  std::vector<FallbackCount> fallbacks() const;

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
  Device device_{};
  void* stream_ = nullptr;
};

/// One environment variable Fathom reads; the only ones are in environment_variables().
struct EnvironmentVariable {
  std::string_view name;
  std::string_view default_value;
  std::string_view meaning;
};
std::span<const EnvironmentVariable> environment_variables();

/// "0.1.0"
std::string_view version();

/// The instruction sets the CPU backend is built for and this CPU has, best first, e.g. "avx512_bf16",
/// "avx512", "avx2", "sse4", "baseline". The one in use is a property of the process: FATHOM_CPU_TARGET sets
/// it before the first op runs. Results may differ between them in rounding, never within one.
std::vector<std::string_view> cpu_targets();
std::string_view cpu_target();

}  // namespace fathom
