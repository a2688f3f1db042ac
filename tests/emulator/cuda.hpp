// Device code as the host's compiler sees it: CUDA's keywords, types and built-in functions, each of them one
// that some kernel uses. Included before a kernel's source.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "machine.hpp"

#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __restrict__
#define __constant__
// One block of one thread of the host at a time, and poisoned before it. Dynamic shared memory is rewritten
// in the source: see nvrtc.cpp.
#define __shared__ static thread_local

using fathom::emulator::fathom_emulator_self;

#define threadIdx (fathom_emulator_self->thread)
#define blockIdx (fathom_emulator_self->block)
#define blockDim (fathom_emulator_self->block_size)
#define gridDim (fathom_emulator_self->grid_size)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <class To, class From>
inline To fathom_emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned bits) { return fathom_emulator_bits<float>(bits); }
inline float __int_as_float(int bits) { return fathom_emulator_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return fathom_emulator_bits<unsigned>(value); }
inline int __float_as_int(float value) { return fathom_emulator_bits<int>(value); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
// The host's give NaN where one operand is a signalling NaN.
inline float fathom_emulator_fmax(float a, float b) { return a != a ? b : b != b ? a : a < b ? b : a; }
inline float fathom_emulator_fmin(float a, float b) { return a != a ? b : b != b ? a : b < a ? b : a; }
#define fmaxf fathom_emulator_fmax
#define fminf fathom_emulator_fmin
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
/// Four bytes of a (0 to 3) and b (4 to 7), the lowest chosen by the lowest four bits of `which`.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const unsigned long long bytes = a | static_cast<unsigned long long>(b) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(bytes >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
template <class T>
inline T __ldg(const T* from) {
  return *from;
}
template <class T>
inline T __ldcg(const T* from) {
  return *from;
}
template <class T>
inline T __ldcs(const T* from) {
  return *from;
}
template <class T>
inline void __stcs(T* to, T value) {
  *to = value;
}
inline unsigned long long __cvta_generic_to_shared(const void* pointer) {
  return fathom::emulator::shared_address(pointer);
}

template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline void __syncthreads() { fathom::emulator::syncthreads(); }
inline void __syncwarp(unsigned mask = ~0u) { fathom::emulator::exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
inline unsigned long long fathom_emulator_word(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  unsigned long long word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}
template <class T>
inline T fathom_emulator_value(unsigned long long word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}
/// The value of lane `from`, or the own one if that lane is outside of the segment.
template <class T>
inline T fathom_emulator_shuffle(unsigned mask, T value, int from, bool inside) {
  const unsigned long long* words = fathom::emulator::exchange(mask, fathom_emulator_word(value));
  if (!inside) return value;
  if ((mask >> from & 1) == 0) fathom::emulator::trap("a shuffle from a lane that does not take part");
  return fathom_emulator_value<T>(words[from]);
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const int own = fathom_emulator_self->lane;
  return fathom_emulator_shuffle(mask, value, (own & ~(width - 1)) | (lane & (width - 1)), true);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int own = fathom_emulator_self->lane;
  const int from = own ^ with;
  return fathom_emulator_shuffle(mask, value, from, from < (own & ~(width - 1)) + width);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int own = fathom_emulator_self->lane;
  const int from = own - static_cast<int>(by);
  return fathom_emulator_shuffle(mask, value, from & 31, from >= (own & ~(width - 1)));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int own = fathom_emulator_self->lane;
  const int from = own + static_cast<int>(by);
  return fathom_emulator_shuffle(mask, value, from & 31, from < (own & ~(width - 1)) + width);
}
/// fold(result, value of a lane) over the lanes of a mask in ascending order, beginning with the first.
template <class T, class Fold>
inline T fathom_emulator_reduce(unsigned mask, T value, Fold fold) {
  const unsigned long long* words = fathom::emulator::exchange(mask, fathom_emulator_word(value));
  T result{};
  bool first = true;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const T other = fathom_emulator_value<T>(words[lane]);
    result = first ? other : fold(result, other);
    first = false;
  }
  return result;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned bit = predicate != 0 ? 1u << fathom_emulator_self->lane : 0u;
  return fathom_emulator_reduce(mask, bit, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
  const unsigned long long own = fathom_emulator_word(value);
  const unsigned long long* words = fathom::emulator::exchange(mask, own);
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane)
    same |= (mask >> lane & 1) != 0 && words[lane] == own ? 1u << lane : 0u;
  return same;
}
template <class T>
inline T __reduce_add_sync(unsigned mask, T value) {
  return fathom_emulator_reduce(mask, value, [](T a, T b) { return static_cast<T>(a + b); });
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value) {
  return fathom_emulator_reduce(mask, value, [](T a, T b) { return b < a ? b : a; });
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value) {
  return fathom_emulator_reduce(mask, value, [](T a, T b) { return a < b ? b : a; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return fathom_emulator_reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}

// One fiber runs at a time, so plain accesses are atomic.
template <class T, class U>
inline T atomicAdd(T* at, U value) {
  const T before = *at;
  *at = static_cast<T>(before + static_cast<T>(value));
  return before;
}
template <class T, class U>
inline T atomicOr(T* at, U value) {
  const T before = *at;
  *at = before | static_cast<T>(value);
  return before;
}
template <class T, class U>
inline T atomicMax(T* at, U value) {
  const T before = *at;
  *at = max(before, static_cast<T>(value));
  return before;
}
template <class T, class U>
inline T atomicMin(T* at, U value) {
  const T before = *at;
  *at = min(before, static_cast<T>(value));
  return before;
}

namespace fathom::emulator {

/// How the driver calls a kernel: its parameters' number and sizes, and a call that takes them by address.
template <class... A>
struct Entry {
  static constexpr unsigned kSizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
  template <std::size_t... kI>
  static void call(void (*kernel)(A...), void** parameters, std::index_sequence<kI...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(parameters[kI])...);
  }
  static void call(void (*kernel)(A...), void** parameters) {
    call(kernel, parameters, std::index_sequence_for<A...>());
  }
};
template <class... A>
Entry<A...> entry_of(void (*)(A...));

/// Of no kernel; finds this module's static shared memory for the driver.
inline thread_local unsigned long long static_probe = 1;

}  // namespace fathom::emulator
