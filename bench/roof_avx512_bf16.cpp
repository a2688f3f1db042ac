// The AVX-512 BF16 dot product at full speed: Highway has none.
#include "core/cpu_target.hpp"
#include "roof.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom::roof_detail {

bool has_bf16_dot() { return has_avx512_bf16(); }

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) double run_bf16_dot(std::int64_t rounds,
                                                                                    float* sink) {
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(1e-3f));
  constexpr int kChains = 12;
  __m512 sum[kChains];
  for (int chain = 0; chain < kChains; ++chain) sum[chain] = _mm512_set1_ps(static_cast<float>(chain));
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sum[chain] = _mm512_dpbf16_ps(sum[chain], a, a);
  }
  __m512 total = _mm512_setzero_ps();
  for (const __m512& chain : sum) total = _mm512_add_ps(total, chain);
  _mm512_storeu_ps(sink, total);
  return static_cast<double>(rounds) * kChains * 16 * 4;  // 16 lanes, each two products and two sums
}

}  // namespace fathom::roof_detail
#else
namespace fathom::roof_detail {
bool has_bf16_dot() { return false; }
double run_bf16_dot(std::int64_t, float*) { return 0; }
}  // namespace fathom::roof_detail
#endif
