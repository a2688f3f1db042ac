// The table of ops: names and what runs them. `fathom info`, docs/ops.md and FATHOM_FORCE_IMPL read it.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

struct OpInfo {
  std::string_view name;
  std::string_view summary;  // one line
  std::string example;       // a problem string
  std::vector<std::string_view> implementations;
  /// The one spelling of a problem of this op. Throws InvalidArgument if the text is none.
  std::string (*canonical)(std::string_view problem) = nullptr;
};

/// Every op, in the order of src/ops/CMakeLists.txt. The build generates the table.
std::span<const OpInfo* const> all_ops();

}  // namespace fathom
