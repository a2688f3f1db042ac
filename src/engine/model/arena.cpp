#include "engine/model/arena.hpp"

#include <algorithm>

namespace fathom {
namespace {
constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kSmallestSlab = 1 << 20;
}  // namespace

TensorView Arena::take(DType dtype, std::initializer_list<std::int64_t> shape) {
  TensorView view = TensorView::contiguous(nullptr, dtype, shape);
  const std::int64_t bytes = (view.count() * size_of(dtype) + kAlignment - 1) / kAlignment * kAlignment;
  while (slab_ < slabs_.size() && used_ + bytes > slabs_[slab_].size()) {
    ++slab_;
    used_ = 0;
  }
  if (slab_ == slabs_.size()) slabs_.emplace_back(std::max({bytes, kSmallestSlab, this->bytes() / 2}));
  view.data = slabs_[slab_].data() + used_;
  used_ += bytes;
  return view;
}

std::int64_t Arena::bytes() const {
  std::int64_t sum = 0;
  for (const Buffer& slab : slabs_) sum += slab.size();
  return sum;
}

void Arena::release(std::size_t slab, std::int64_t used) {
  slab_ = slab;
  used_ = used;
  if (slab != 0 || used != 0 || slabs_.size() < 2) return;
  const std::int64_t total = bytes();  // empty: one slab from now on
  slabs_.clear();
  slabs_.emplace_back(total);
}

}  // namespace fathom
