// Checks of the names that ContextOptions carries. A name is wrong when the Context is made, not at first
// use.
#pragma once
#include <string_view>

namespace fathom {

/// Takes the first of a comma list off it.
std::string_view next_of_list(std::string_view& list);
/// Throws InvalidArgument if FATHOM_FORCE_IMPL names an op or implementation that nobody has.
void check_forced_implementation(std::string_view text);
/// Throws InvalidArgument, listing what there is, unless `name` is an algorithm of linear_bf16_fp32. Defined
/// by that op: core declares what it asks, and includes no op.
void check_linear_algorithm(std::string_view name);

}  // namespace fathom
