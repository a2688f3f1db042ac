// The emulator's twin of kernels/ptx/wgmma.cuh.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

inline void wgmma_fence() {}
inline void wgmma_commit_group() { emulator::wgmma_commit(); }
template <int kPending>
inline void wgmma_wait_group() {
  emulator::wgmma_wait(kPending);
}
inline void keep(float&) {}

inline u32 wgmma_descriptor_low(u32 address) { return (address & 0x3FFFF) >> 4 | 1u << 16; }
inline u64 wgmma_descriptor(u32 low) {
  return static_cast<u64>(low) | static_cast<u64>(64u | 1u << 30) << 32;
}
inline u32 wgmma_transposed_low(u32 address, u32 block) { return (address & 0x3FFFF) >> 4 | block >> 4 << 16; }

template <bool kFp8, int kN>
struct Wgmma {
  static void multiply(float (&d)[kN / 2], u64 a, u64 b, int add) {
    emulator::wgmma(kFp8, kN, d, a, b, add != 0, 0);
  }
};
struct WgmmaTransposed128 {
  static void multiply(float (&d)[64], u64 a, u64 b) { emulator::wgmma(false, 128, d, a, b, true, 'b'); }
};
struct WgmmaRegisters128 {
  static void multiply(float (&d)[64], const u32 (&a)[4], u64 b) {
    emulator::wgmma(false, 128, d, 0, b, true, 'b', a);
  }
};
template <int kN>
struct WgmmaTransposedA {
  static void multiply(float (&d)[kN / 2], u64 a, u64 b) { emulator::wgmma(false, kN, d, a, b, true, 'a'); }
};

}  // namespace fathom::ptx
