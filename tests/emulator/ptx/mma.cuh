// The emulator's twin of kernels/ptx/mma.cuh.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"

namespace fathom::ptx {

/// `value` makes two floats of 32 bits.
template <class Value>
inline void warp_product(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, Value value) {
  const auto lane = static_cast<u32>(fathom_emulator_self->lane);
  float rows[2][16], columns[2][16];  // of this lane's sums
  const auto take = [&value](float* to, u32 word) {
    const float2 two = value(word);
    to[0] = two.x;
    to[1] = two.y;
  };
  const auto both = [](u32 low, u32 high) { return emulator::exchange(~0u, low | static_cast<u64>(high) << 32); };
  for (u32 k = 0; k < 16; k += 8) {
    const unsigned long long* all = k == 0 ? both(a[0], a[1]) : both(a[2], a[3]);
    for (u32 i = 0; i < 8; ++i) {
      take(&rows[i / 4][k + i % 4 * 2], static_cast<u32>(all[lane / 4 * 4 + i % 4] >> i / 4 * 32));
    }
  }
  const unsigned long long* all = both(b0, b1);
  for (u32 i = 0; i < 16; ++i) {
    take(&columns[i / 8][i % 8 * 2], static_cast<u32>(all[lane % 4 * 8 + i / 8 * 4 + i % 4] >> i / 4 % 2 * 32));
  }
  for (u32 i = 0; i < 4; ++i) {
    double sum = 0;  // one rounding, as for wgmma: whatever the order of k
    for (u32 k = 0; k < 16; ++k) sum += static_cast<double>(rows[i / 2][k]) * columns[i % 2][k];
    d[i] += static_cast<float>(sum);
  }
}

inline void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { warp_product(d, a, b0, b1, cvt_f32x2); }
inline void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  warp_product(d, a, b0, b1, [](u32 word) -> float2 {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  });
}

inline void ldmatrix_x4(u32 (&v)[4], u32 address) {
  const auto lane = static_cast<u32>(fathom_emulator_self->lane);
  const unsigned long long* rows = emulator::exchange(~0u, address);
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    const auto row = static_cast<u32>(rows[8 * matrix + lane / 4]);
    if (row % 16 != 0) emulator::trap("ldmatrix of a row that is not aligned to 16 bytes");
    v[matrix] = shared_value<u32>(row + lane % 4 * 4);
  }
}
inline void ldmatrix_x4_transposed(u32 (&v)[4], u32 address) {
  const auto lane = static_cast<u32>(fathom_emulator_self->lane);
  const unsigned long long* rows = emulator::exchange(~0u, address);
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    const auto first = static_cast<u32>(rows[8 * matrix + lane % 4 * 2]);
    const auto second = static_cast<u32>(rows[8 * matrix + lane % 4 * 2 + 1]);
    if ((first | second) % 16 != 0) emulator::trap("ldmatrix of a row that is not aligned to 16 bytes");
    const u32 low = shared_value<u16>(first + lane / 4 * 2);
    v[matrix] = low | static_cast<u32>(shared_value<u16>(second + lane / 4 * 2)) << 16;
  }
}

}  // namespace fathom::ptx
