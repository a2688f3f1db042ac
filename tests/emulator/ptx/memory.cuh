// The emulator's twin of kernels/ptx/memory.cuh.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

template <class T>
inline T& shared_value(u32 address) {
  return *static_cast<T*>(emulator::shared_bytes(address, sizeof(T)));
}

inline u32 mapa(u32 address, u32 rank) { return emulator::mapa(address, rank); }
inline float4 ld_shared_cluster(u32 remote) { return shared_value<float4>(remote); }
inline float ld_shared_cluster_1(u32 remote) { return shared_value<float>(remote); }
inline void st_async(u32 remote, float value, u32 remote_barrier) {
  emulator::store_async(remote, __float_as_uint(value), remote_barrier);
}
inline void st_async_4(u32 remote, float4 v, u32 remote_barrier) {
  const float words[4] = {v.x, v.y, v.z, v.w};
  for (int i = 0; i < 4; ++i) st_async(remote + 4 * i, words[i], remote_barrier);
}

inline float ld_shared(u32 address) { return shared_value<float>(address); }
inline float4 ld_shared_4(u32 address) { return shared_value<float4>(address); }
inline void st_shared_4(u32 address, const u32 (&v)[4]) {
  shared_value<uint4>(address) = uint4{v[0], v[1], v[2], v[3]};
}
inline void st_shared_4(u32 address, float4 v) { shared_value<float4>(address) = v; }
inline void st_shared_2(u32 address, float2 v) { shared_value<float2>(address) = v; }
inline void st_shared(u32 address, float value) { shared_value<float>(address) = value; }
inline int4 ld_shared_int4(u32 address) { return shared_value<int4>(address); }
inline void st_shared_int4(u32 address, int4 v) { shared_value<int4>(address) = v; }

inline uint4 ld_global_early(const void* address) { return *static_cast<const uint4*>(address); }
inline uint4 ld_global_early(const void* address, bool live, u32 otherwise = 0) {
  return live ? ld_global_early(address) : uint4{otherwise, otherwise, otherwise, otherwise};
}
inline float4 ld_relaxed_4(const float* address) { return *reinterpret_cast<const float4*>(address); }
inline void st_relaxed_4(float* address, float4 v) { *reinterpret_cast<float4*>(address) = v; }
inline u32 ld_acquire(const u32* address) { return *address; }
inline void st_release(u32* address, u32 value) { *address = value; }
inline void pause() { emulator::pause(); }
inline void prefetch_l2(const void*) {}
inline void prefetch_l2_bulk(const void*, u32) {}

inline void cp_async_16(u32 to, const void* from, bool live) { emulator::copy_async(to, from, 16, live); }
inline void cp_async_4(u32 to, const void* from, bool live) { emulator::copy_async(to, from, 4, live); }
inline void cp_async_mbarrier_arrive(u32 barrier) { emulator::copy_async_arrive(barrier); }
inline void cp_async_wait_all() { emulator::copy_async_wait(); }

inline void stmatrix_x4(u32 address, u32 a, u32 b, u32 c, u32 d) {
  const u32 values[4] = {a, b, c, d};
  const auto lane = static_cast<u32>(fathom_emulator_self->lane);
  const unsigned long long* rows = emulator::exchange(~0u, address);
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    // Lane i has columns 2 (i % 4) and 2 (i % 4) + 1 of row i / 4, whose address is in lane 8 matrix + i / 4.
    const auto row = static_cast<u32>(rows[8 * matrix + lane / 4]);
    if (row % 16 != 0) emulator::trap("stmatrix to a row that is not aligned to 16 bytes");
    shared_value<u32>(row + 4 * (lane % 4)) = values[matrix];
  }
}

}  // namespace fathom::ptx
