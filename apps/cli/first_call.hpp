// fathom bench --first-call: how long a user waits for the first result of a problem.
#pragma once
#include <vector>

#include "fathom/core/context.hpp"
#include "problem_list.hpp"

namespace fathom::cli {

/// Prints, for every problem, the time from the call to its result with an empty cache, from the cache that
/// this filled, from a kernel pack if one is found, and when all is warm. Returns the exit code: 2 if a
/// problem could not run.
int first_calls(const std::vector<ListedProblem>& problems, const ContextOptions& options);

}  // namespace fathom::cli
