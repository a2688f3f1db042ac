// How long a user waits for the first result of a problem.
#pragma once
#include <optional>
#include <string>

#include "fathom/core/context.hpp"

namespace fathom {

/// Seconds from the call to its result.
struct FirstCall {
  std::optional<double> empty_cache;  // kernels are compiled; none if a pack beside the program has them
  std::optional<double> from_cache;   // another context finds what the first one compiled
  std::optional<double> from_pack;    // the cache is empty; none if there is no pack
  double warm = 0;
};

/// Each in a context of its own made of `options`, with a cache folder of its own. The device should be open
/// already: opening it takes longer.
FirstCall measure_first_call(const std::string& problem, const ContextOptions& options);

/// Seconds that it takes to open the device of `options`, which `open` then keeps open.
double open_device_for_bench(const ContextOptions& options, std::optional<Context>& open);

}  // namespace fathom
