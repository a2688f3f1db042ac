// Problems as `fathom bench` takes them: one, or a file with one a line, in named sets.
#pragma once
#include <string>
#include <vector>

namespace fathom {

struct ListedProblem {
  std::string set;        // of the last line "[name]" before it; empty: none
  std::string text;       // as written, without blanks
  std::string canonical;  // with all of its keys
};

/// Throws InvalidArgument if no op has the name or it does not take the keys.
std::string canonical_problem(const std::string& text);
/// A problem, or the file of that name: a problem a line, '#' starts a comment, "[name]" a set. Throws
/// InvalidArgument; FileError with the line for a file, also if a set's name is not UTF-8, or if it has no
/// problem.
std::vector<ListedProblem> read_problems(const std::string& what);

}  // namespace fathom
