// The indexer's scores on the CPU, for mqa_logits and paged_mqa_logits: 64 keys become a tile in which a lane
// is a key, and every head adds max(0, dot) * weight to them. A score depends on its query and its key only.
#pragma once
#include <cstdint>

#include "fathom/core/tensor.hpp"

namespace fathom::cpu {

inline constexpr std::int64_t kMqaTileKeys = 64;

/// Up to 64 keys, `count` of them.
struct MqaKeys {
  const void* data = nullptr;
  std::int64_t stride = 0;       // elements from key to key
  const void* scales = nullptr;  // f32 at any alignment, one a key; null: 1
  std::int64_t count = 0;
};

/// One query token.
struct MqaQuery {
  const void* data = nullptr;
  std::int64_t head_stride = 0;  // elements
  const float* weights = nullptr;
};

/// Scores of queries of one shape. Holds scratch memory of this thread: one scorer at a time in a thread.
class MqaScorer {
 public:
  MqaScorer(DType dtype, std::int64_t heads, std::int64_t dim, std::int64_t queries);
  void set_query(std::int64_t index, const MqaQuery& query);
  void set_keys(const MqaKeys& keys);
  /// logits[j] = score of query `index` and key j for begin <= j < end; logits[j] for other j stay.
  void score(std::int64_t index, std::int64_t begin, std::int64_t end, float* logits) const;

 private:
  DType dtype_;
  std::int64_t heads_;
  std::int64_t dim_;
  std::int64_t query_bytes_;
  bool bf16_;
  std::byte* tile_;
  std::byte* queries_;
  float* weights_;
  alignas(64) float scales_[kMqaTileKeys];
};

/// Fills [begin, end) with -infinity.
void fill_minus_infinity(float* begin, float* end);

}  // namespace fathom::cpu
