#include "engine/tokenizer/token_table.hpp"

#include <algorithm>
#include <functional>

namespace fathom::text {
namespace {

std::uint32_t hash_of(std::string_view content) {
  return static_cast<std::uint32_t>(std::hash<std::string_view>()(content));
}

}  // namespace

std::size_t TokenTable::slot(std::string_view content, std::uint32_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash & mask;
  while (slots_[at].id >= 0 && (slots_[at].hash != hash || this->content(slots_[at].id) != content)) {
    at = (at + 1) & mask;
  }
  return at;
}

std::optional<std::int32_t> TokenTable::find(std::string_view content) const {
  if (slots_.empty()) return std::nullopt;
  const std::int32_t id = slots_[slot(content, hash_of(content))].id;
  return id < 0 ? std::nullopt : std::optional(id);
}

bool TokenTable::insert(std::string_view content, std::int32_t id) {
  if (used_ * 2 >= slots_.size()) grow();
  const std::uint32_t hash = hash_of(content);
  const std::size_t place = slot(content, hash);
  if (slots_[place].id >= 0) return false;
  slots_[place] = {hash, id};
  ++used_;
  if (id >= size()) ranges_.resize(static_cast<std::size_t>(id) + 1);
  ranges_[static_cast<std::size_t>(id)] = {static_cast<std::uint32_t>(text_.size()),
                                           static_cast<std::uint32_t>(content.size())};
  text_ += content;
  return true;
}

void TokenTable::grow() {
  std::vector<Slot> old(std::max<std::size_t>(slots_.size() * 2, 1024));
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    std::size_t at = slot.hash & mask;
    while (slots_[at].id >= 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

}  // namespace fathom::text
