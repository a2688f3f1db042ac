// Context: where work runs and how it is reported. There is no other state.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/tensor.hpp"

namespace fathom {

struct ContextOptions {
  int threads = 0;                        ///< 0: one per core this process may use
  bool strict = false;                    ///< refuse an implementation that is only a fallback
  std::string force_implementation;       ///< run this implementation or fail; empty: choose
  std::string verbose;                    ///< comma list of: dispatch, time
  std::string linear_algorithm = "auto";  ///< see fathom/ops/linear_bf16_fp32.hpp

  /// The options as the environment variables of environment_variables() set them.
  static ContextOptions from_environment();
};

/// A fallback that ran: an op, the implementation that took it, and how often.
struct FallbackCount {
  std::string op;
  std::string implementation;
  std::int64_t count = 0;
};

class Context {
 public:
  /// Reads ContextOptions::from_environment(). Throws InvalidArgument if a variable has a value that means
  /// nothing.
  Context();
  explicit Context(const ContextOptions& options);
  ~Context();
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;

  int threads() const;
  const ContextOptions& options() const;
  bool verbose(std::string_view topic) const;

  /// Runs body(begin, end) over [0, count) on this context's threads, in pieces of at least `grain`.
  /// Never called with an empty range. Exceptions reach the caller.
  void parallel_for(std::int64_t count, std::int64_t grain,
                    const std::function<void(std::int64_t, std::int64_t)>& body) const;

  /// Counts an implementation that ran although a better one declined.
  void count_fallback(std::string_view op, std::string_view implementation) const;
  std::vector<FallbackCount> fallbacks() const;

  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
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
