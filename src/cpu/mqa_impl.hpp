// The instruction-set versions of src/cpu/mqa.hpp.
#pragma once
#include "cpu/mqa.hpp"

namespace fathom::cpu {

/// dim * 64 values, f32 or shorter: keys beyond `count` hold zeros.
void mqa_pack_keys_simd(const MqaKeys& keys, DType dtype, std::int64_t dim, float* tile);
void mqa_pack_query_simd(const MqaQuery& query, DType dtype, std::int64_t heads, std::int64_t dim,
                         float* packed);
/// sums[64] = sum over heads, ascending, of weights[h] * max(0, dot), dot summed along dim.
void mqa_sums_simd(const float* query, const float* weights, const float* tile, DType dtype,
                   std::int64_t heads, std::int64_t dim, float* sums);

/// e4m3 keys as pairs of bf16; dim is a multiple of 64.
void mqa_pack_keys_avx512_bf16(const MqaKeys& keys, std::int64_t dim, std::uint32_t* tile);
void mqa_pack_query_avx512_bf16(const MqaQuery& query, std::int64_t heads, std::int64_t dim,
                                std::uint32_t* packed);
void mqa_sums_avx512_bf16(const std::uint32_t* query, const float* weights, const std::uint32_t* tile,
                          std::int64_t heads, std::int64_t dim, float* sums);

}  // namespace fathom::cpu
