// The emulator's twin of kernels/ptx/tma.cuh.
#pragma once
#include "layout/gemm.cuh"
#include "ptx/types.cuh"

namespace fathom::ptx {

inline constexpr u64 kEvictNormal = 0;
inline constexpr u64 kEvictFirst = 1;
inline constexpr u64 kEvictLast = 2;

inline void prefetch_tensormap(const TensorMap*) {}

template <class... Axes>
inline void load_box(u32 to, const TensorMap* map, u32 barrier, u16 blocks, Axes... axes) {
  const int at[] = {axes...};
  emulator::tensor_load(to, map, barrier, sizeof...(axes), at, blocks);
}
inline void cp_async_bulk_tensor_2d(u32 to, const TensorMap* map, u32 barrier, int x, int y, u64) {
  load_box(to, map, barrier, 0, x, y);
}
inline void cp_async_bulk_tensor_2d_multicast(u32 to, const TensorMap* map, u32 barrier, int x, int y, u16 blocks,
                                              u64) {
  load_box(to, map, barrier, blocks, x, y);
}
inline void cp_async_bulk_tensor_3d(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z, u64) {
  load_box(to, map, barrier, 0, x, y, z);
}
inline void cp_async_bulk_tensor_3d_multicast(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z,
                                              u16 blocks, u64) {
  load_box(to, map, barrier, blocks, x, y, z);
}
inline void cp_async_bulk_tensor_4d(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z, int w, u64) {
  load_box(to, map, barrier, 0, x, y, z, w);
}

inline void cp_async_bulk(u32 to, const void* from, u32 bytes, u32 barrier, u64 = kEvictNormal) {
  emulator::copy_bulk(to, from, bytes, barrier);
}

inline void cp_async_bulk_tensor_2d_store(const TensorMap* map, u32 from, int x, int y) {
  const int at[] = {x, y};
  emulator::tensor_store(map, from, 2, at);
}
inline void cp_async_bulk_tensor_3d_store(const TensorMap* map, u32 from, int x, int y, int z) {
  const int at[] = {x, y, z};
  emulator::tensor_store(map, from, 3, at);
}
inline void cp_async_bulk_commit_group() { emulator::bulk_commit(); }
inline void cp_async_bulk_wait_group_read() { emulator::bulk_wait_read(); }
inline void fence_proxy_async() {}

}  // namespace fathom::ptx
