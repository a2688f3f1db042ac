// Arena: the memory of intermediate results. A step takes what it needs from the front and gives it back at
// once.
#pragma once
#include <initializer_list>
#include <vector>

#include "fathom/core/buffer.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// Grows to what the largest step needs, then allocates nothing any more.
class Arena {
 public:
  /// An uninitialised contiguous tensor, 64-byte aligned, valid until the scope around it ends.
  TensorView take(DType dtype, std::initializer_list<std::int64_t> shape);
  std::int64_t bytes() const;

  /// Everything taken after its construction is given back by its destruction.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), slab_(arena.slab_), used_(arena.used_) {}
    ~Scope() { arena_.release(slab_, used_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t slab_;
    std::int64_t used_;
  };

 private:
  void release(std::size_t slab, std::int64_t used);

  std::vector<Buffer> slabs_;
  std::size_t slab_ = 0;   // the one in use
  std::int64_t used_ = 0;  // bytes of it
};

}  // namespace fathom
