#include "cpu/mqa.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/cpu_target.hpp"
#include "cpu/mqa_impl.hpp"
#include "cpu/scratch.hpp"

namespace fathom::cpu {

MqaScorer::MqaScorer(DType dtype, std::int64_t heads, std::int64_t dim, std::int64_t queries)
    : dtype_(dtype),
      heads_(heads),
      dim_(dim),
      bf16_(dtype == DType::f8e4m3 && dim % 64 == 0 && has_avx512_bf16()) {
  const std::int64_t size = bf16_ ? 2 : 4;
  query_bytes_ = align_to(heads * dim * size, 64);
  const std::int64_t tile_bytes = dim * kMqaTileKeys * size;
  tile_ = thread_scratch<MqaScorer>(tile_bytes + queries * (query_bytes_ + heads * 4));
  queries_ = tile_ + tile_bytes;
  weights_ = reinterpret_cast<float*>(queries_ + queries * query_bytes_);
}

void MqaScorer::set_query(std::int64_t index, const MqaQuery& query) {
  std::byte* packed = queries_ + index * query_bytes_;
  if (bf16_) {
    mqa_pack_query_avx512_bf16(query, heads_, dim_, reinterpret_cast<std::uint32_t*>(packed));
  } else {
    mqa_pack_query_simd(query, dtype_, heads_, dim_, reinterpret_cast<float*>(packed));
  }
  std::copy_n(query.weights, heads_, weights_ + index * heads_);
}

void MqaScorer::set_keys(const MqaKeys& keys) {
  if (bf16_) {
    mqa_pack_keys_avx512_bf16(keys, dim_, reinterpret_cast<std::uint32_t*>(tile_));
  } else {
    mqa_pack_keys_simd(keys, dtype_, dim_, reinterpret_cast<float*>(tile_));
  }
  std::fill(scales_, scales_ + kMqaTileKeys, 1.0f);
  if (keys.scales != nullptr) std::memcpy(scales_, keys.scales, static_cast<std::size_t>(4 * keys.count));
}

void MqaScorer::score(std::int64_t index, std::int64_t begin, std::int64_t end, float* logits) const {
  if (begin >= end) return;
  alignas(64) float sums[kMqaTileKeys];
  const std::byte* query = queries_ + index * query_bytes_;
  const float* weights = weights_ + index * heads_;
  if (bf16_) {
    mqa_sums_avx512_bf16(reinterpret_cast<const std::uint32_t*>(query), weights,
                         reinterpret_cast<const std::uint32_t*>(tile_), heads_, dim_, sums);
  } else {
    mqa_sums_simd(reinterpret_cast<const float*>(query), weights, reinterpret_cast<const float*>(tile_),
                  dtype_, heads_, dim_, sums);
  }
  for (std::int64_t j = 0; j < kMqaTileKeys; ++j) sums[j] *= scales_[j];
  std::copy(sums + begin, sums + end, logits + begin);
}

void fill_minus_infinity(float* begin, float* end) {
  if (begin < end) std::fill(begin, end, -std::numeric_limits<float>::infinity());
}

}  // namespace fathom::cpu
