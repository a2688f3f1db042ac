// What an op's bench states: its work, and one run of it. `fathom bench` measures.
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"

namespace fathom {

struct BenchCase {
  std::string problem;  // canonical spelling
  double bytes = 0;     // that one run must move: each input read once, each output written once
  double flops = 0;     // arithmetic of one run; 0 if that is no useful figure
  /// Runs once. The argument counts runs: a bench whose weights must come from memory rotates copies by it.
  std::function<void(std::int64_t)> run;
};

/// A buffer of normal random values, shared with the closure of the bench.
std::shared_ptr<Buffer> bench_normal(DType dtype, std::initializer_list<std::int64_t> shape,
                                     double deviation = 1);
/// How many copies of `bytes` no cache of this machine holds together (at least 1). Always 1 after
/// use_hot_weights().
std::int64_t cold_copies(std::int64_t bytes);
void use_hot_weights();

/// The bench of a problem string. Throws InvalidArgument if no op has that name.
BenchCase make_bench(std::string_view problem, const Context& context);

}  // namespace fathom
