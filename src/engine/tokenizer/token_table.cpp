#include "engine/tokenizer/token_table.hpp"

#include <algorithm>
#include <functional>

namespace fathom::text {

std::size_t TokenTable::slot(std::string_view content) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = std::hash<std::string_view>()(content) & mask;
  while (slots_[at] >= 0 && this->content(slots_[at]) != content) at = (at + 1) & mask;
  return at;
}

std::optional<std::int32_t> TokenTable::find(std::string_view content) const {
  if (slots_.empty()) return std::nullopt;
  const std::int32_t id = slots_[slot(content)];
  return id < 0 ? std::nullopt : std::optional(id);
}

bool TokenTable::insert(std::string_view content, std::int32_t id) {
  if (used_ * 2 >= slots_.size()) grow();
  const std::size_t place = slot(content);
  if (slots_[place] >= 0) return false;
  slots_[place] = id;
  ++used_;
  if (id >= size()) ranges_.resize(static_cast<std::size_t>(id) + 1);
  ranges_[static_cast<std::size_t>(id)] = {static_cast<std::uint32_t>(text_.size()),
                                           static_cast<std::uint32_t>(content.size())};
  text_ += content;
  return true;
}

void TokenTable::grow() {
  std::vector<std::int32_t> old(std::max<std::size_t>(slots_.size() * 2, 1024), -1);
  old.swap(slots_);
  for (const std::int32_t id : old) {
    if (id >= 0) slots_[slot(content(id))] = id;
  }
}

}  // namespace fathom::text
