// Chooses an implementation of an op and says why the others declined.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "core/log.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"
#include "fathom/core/problem.hpp"

namespace fathom {

/// Why an implementation declines a problem. Starts with "needs" and ends with what was given.
struct Declined {
  std::string reason;
};
/// Empty: the implementation accepts.
using Verdict = std::optional<Declined>;
inline constexpr std::nullopt_t accept = std::nullopt;
inline Verdict decline(std::string reason) { return Declined{std::move(reason)}; }

/// One way to run an op. `name` is "backend:variant", e.g. "cpu:simd", "ref:any".
template <class Problem, class Args>
struct Implementation {
  std::string_view name;
  Verdict (*can_run)(const Problem&, const Context&);
  void (*run)(const Problem&, const Args&, const Context&);
  bool fallback = false;  // much slower than what the user expects: counted, logged, refused in strict mode
  DeviceKind device = DeviceKind::host;  // where its tensors are; choose() looks at no other entry
};

template <class Problem, class Args, std::size_t kCount>
OpInfo make_op_info(std::string_view summary, const Problem& example,
                    const Implementation<Problem, Args> (&list)[kCount]) {
  OpInfo info{Problem::op, summary, problem_string(example), {}, [](std::string_view text) {
                return problem_string(parse_problem<Problem>(text));
              }};
  for (const auto& implementation : list) info.implementations.push_back(implementation.name);
  return info;
}

inline Verdict always(const auto&, const Context&) { return accept; }

namespace detail {
/// True if FATHOM_FORCE_IMPL (as in "fp8_gemm_nt=ref:any" or "ref:any") speaks of this op; `name` gets the
/// implementation.
bool forced(const Context& context, std::string_view op, std::string& name);
/// "needs tensors in host memory, the context's device is cuda:0"
std::string other_device(DeviceKind needed, Device given);
/// Declines on a device that no CUDA entry is for: from compute capability 8.0 there are warp-wide reductions
/// and the shared memory that the general kernels take.
Verdict old_device(const Context& context);
/// What an entry for the context's device says to a problem.
template <class Problem, class Args>
Verdict verdict_of(const Implementation<Problem, Args>& implementation, const Problem& problem,
                   const Context& context) {
  if (implementation.device == DeviceKind::cuda) {
    if (Verdict old = old_device(context)) return old;
  }
  return implementation.can_run(problem, context);
}
/// Throws NoImplementation if no entry of `list` is for the context's device.
template <class Problem, class Args, std::size_t kCount>
void expect_device(const Implementation<Problem, Args> (&list)[kCount], const Context& context) {
  for (const auto& implementation : list) {
    if (implementation.device == context.device().kind) return;
  }
  std::string reasons;
  for (const auto& implementation : list) {
    reasons += "\n  " + std::string(implementation.name) + ": " +
               other_device(implementation.device, context.device());
  }
  throw NoImplementation(std::string(Problem::op) + ": no implementation for " + to_string(context.device()) +
                         reasons);
}
}  // namespace detail

/// Declines unless the implementation is asked for by name: where another was measured to be faster.
template <class Problem>
Verdict when_named(const Problem&, const Context& context, std::string_view implementation) {
  std::string name;
  if (!context.options().force_implementation.empty() && detail::forced(context, Problem::op, name) &&
      name == implementation) {
    return accept;
  }
  return decline("needs to be asked for by name (FATHOM_FORCE_IMPL): others were measured to be faster here");
}

/// The first implementation of `list` for the context's device that accepts: best first, the general one last
/// of each device. One that is marked as a fallback is counted, logged under "dispatch" with the reasons of
/// the others, and refused in strict mode.
template <class Problem, class Args, std::size_t kCount>
const Implementation<Problem, Args>& choose(const Implementation<Problem, Args> (&list)[kCount],
                                            const Problem& problem, const Context& context) {
  if (!context.options().force_implementation.empty()) {
    std::string name;
    if (detail::forced(context, Problem::op, name)) {
      std::string known;
      for (const auto& implementation : list) {
        known += (known.empty() ? "" : ", ") + std::string(implementation.name);
        if (implementation.name != name) continue;
        if (implementation.device != context.device().kind) {
          throw NoImplementation(problem_string(problem) + ": forced implementation " + name + " " +
                                 detail::other_device(implementation.device, context.device()));
        }
        if (const Verdict verdict = detail::verdict_of(implementation, problem, context)) {
          throw NoImplementation(problem_string(problem) + ": forced implementation " + name + " " +
                                 verdict->reason);
        }
        return implementation;
      }
      throw InvalidArgument(std::string(Problem::op) + ": no implementation is named '" + name +
                            "'; there are " + known);
    }
  }
  std::string reasons;
  for (const auto& implementation : list) {
    if (implementation.device != context.device().kind) continue;
    if (const Verdict verdict = detail::verdict_of(implementation, problem, context)) {
      reasons += "\n  " + std::string(implementation.name) + ": " + verdict->reason;
      continue;
    }
    if (implementation.fallback) [[unlikely]] {
      if (context.options().strict) {
        throw NoImplementation(problem_string(problem) + ": strict mode refuses the fallback " +
                               std::string(implementation.name) + reasons);
      }
      context.count_fallback(Problem::op, implementation.name);
      if (context.verbose("dispatch")) {
        log_info(problem_string(problem) + ": runs on the fallback " + std::string(implementation.name) +
                 reasons);
      }
    }
    return implementation;
  }
  throw NoImplementation(problem_string(problem) + ": no implementation accepts it" + reasons);
}

/// The body of every public op function: validate, choose, run. An op that has nothing for the context's
/// device says so before validate(), which may read the contents of a tensor.
template <class Problem, class Args, std::size_t kCount>
void dispatch(const Implementation<Problem, Args> (&list)[kCount], Problem (*validate)(const Args&, Device),
              const Args& args, const Context& context) {
  detail::expect_device(list, context);
  const Problem problem = validate(args, context.device());
  const auto& implementation = choose(list, problem, context);
  if (context.verbose("time")) [[unlikely]] {
    const ScopedTimer timer(problem_string(problem) + " " + std::string(implementation.name));
    implementation.run(problem, args, context);
    return;
  }
  implementation.run(problem, args, context);
}

}  // namespace fathom
