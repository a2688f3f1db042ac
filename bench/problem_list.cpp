#include "problem_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>

#include "engine/tokenizer/utf8.hpp"
#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"

namespace fathom {

std::string canonical_problem(const std::string& text) {
  const std::string_view name = std::string_view(text).substr(0, text.find(':'));
  std::string known;
  for (const OpInfo* op : all_ops()) {
    if (op->name == name) return op->canonical(text);
    known += (known.empty() ? "" : ", ") + std::string(op->name);
  }
  throw InvalidArgument(
      fmt::format("bench: '{}' is no file, and no op is named '{}'; there are {}", text, name, known));
}

std::vector<ListedProblem> read_problems(const std::string& what) {
  if (!std::filesystem::is_regular_file(what)) return {{"", what, canonical_problem(what)}};
  std::ifstream file(what);
  if (!file) throw FileError(what + ": cannot be read");
  std::vector<ListedProblem> problems;
  std::string set;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    line.resize(std::min(line.size(), line.find('#')));
    const auto blank = [](unsigned char c) { return std::isspace(c) != 0; };
    line.erase(std::find_if_not(line.rbegin(), line.rend(), blank).base(), line.end());
    line.erase(line.begin(), std::find_if_not(line.begin(), line.end(), blank));
    if (line.starts_with('[') && line.ends_with(']')) {
      if (find_broken_utf8(line)) throw FileError(fmt::format("{}:{}: the name is not UTF-8", what, number));
      set = line.substr(1, line.size() - 2);
      continue;
    }
    std::erase_if(line, blank);
    if (line.empty()) continue;
    try {
      problems.push_back({set, line, canonical_problem(line)});
    } catch (const InvalidArgument& error) {
      throw FileError(fmt::format("{}:{}: {}", what, number, error.what()));
    }
  }
  if (problems.empty()) throw FileError(what + ": has no problem");
  return problems;
}

}  // namespace fathom
