// What a source reaches, and the key that names its cubin.
#include <algorithm>
#include <map>

#include "core/sha256.hpp"
#include "jit/jit.hpp"
#include "jit/options.hpp"

namespace fathom::jit {
namespace {

// Calls found(name) for every line `#include "name"`. Conditions are not looked at: a key may cover a header
// too many, never one too few. (A comment that holds such a line counts as well.)
template <class Found>
void each_include(std::string_view text, const Found& found) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    const auto skip = [&line] { line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size())); };
    skip();
    if (!line.starts_with('#')) continue;
    line.remove_prefix(1);
    skip();
    if (!line.starts_with("include")) continue;
    line.remove_prefix(7);
    skip();
    if (!line.starts_with('"')) continue;
    line.remove_prefix(1);
    if (const auto quote = line.find('"'); quote != std::string_view::npos) found(line.substr(0, quote));
  }
}

}  // namespace

std::vector<Header> reached_headers(std::string_view text, std::span<const Header> headers) {
  std::map<std::string_view, std::string_view> reached;
  std::vector<std::string_view> todo{text};
  while (!todo.empty()) {
    const std::string_view next = todo.back();
    todo.pop_back();
    each_include(next, [&](std::string_view name) {
      const auto header =
          std::find_if(headers.begin(), headers.end(), [name](const Header& h) { return h.name == name; });
      // One that is not there makes the compiler fail, with its own words.
      if (header != headers.end() && reached.emplace(name, header->text).second) todo.push_back(header->text);
    });
  }
  std::vector<Header> sorted;
  for (const auto& [name, content] : reached) sorted.push_back({name, content});
  return sorted;
}

std::string cache_key(const Source& source, std::string_view arch, std::string_view nvrtc_version,
                      std::span<const Header> headers) {
  Sha256 hash;
  // Every field goes in with its length, so that no two lists of fields give the same bytes.
  const auto field = [&hash](std::string_view text) {
    hash.update(std::to_string(text.size()) + ":");
    hash.update(text);
  };
  field(kCacheFormat);
  field(nvrtc_version);
  for (const std::string& option : compile_options(arch)) field(option);
  field(source.text);
  for (const Header& header : reached_headers(source.text, headers)) {
    field(header.name);
    field(header.text);
  }
  return hash.hex();
}

std::string arch_name(int sm_major, int sm_minor) {
  const std::string number = std::to_string(sm_major * 10 + sm_minor);
  return "sm_" + number + (sm_major == 9 || sm_major == 10 ? "a" : "");
}

}  // namespace fathom::jit
