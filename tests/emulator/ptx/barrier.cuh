// The emulator's twin of kernels/ptx/barrier.cuh.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

inline u32 shared_address(const void* pointer) { return emulator::shared_address(pointer); }
inline u32 pinned(u32 value) { return value; }

inline bool elect_one() { return threadIdx.x % 32 == 0; }

inline void mbarrier_init(u32 barrier, u32 count) { emulator::mbarrier_init(barrier, count); }
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive(u32 barrier) { emulator::mbarrier_arrive(barrier); }
inline void mbarrier_arrive_cluster(u32 barrier, u32 rank) {
  emulator::mbarrier_arrive(emulator::mapa(barrier, rank));
}
inline void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
  emulator::mbarrier_expect(barrier, bytes);
  emulator::mbarrier_arrive(barrier);
}
inline void mbarrier_wait(u32 barrier, u32 parity) { emulator::mbarrier_wait(barrier, parity); }
inline void mbarrier_wait_cluster(u32 barrier, u32 parity) { emulator::mbarrier_wait(barrier, parity); }
inline void bar_sync(int name, int threads) { emulator::bar(name, static_cast<u32>(threads), true); }
inline void bar_arrive(int name, int threads) { emulator::bar(name, static_cast<u32>(threads), false); }

inline u32 cluster_size() { return fathom_emulator_self->cluster; }
inline u32 cluster_rank() { return fathom_emulator_self->rank; }
inline void cluster_arrive_relaxed() { emulator::cluster_arrive(); }
inline void cluster_arrive() { emulator::cluster_arrive(); }
inline void cluster_wait() { emulator::cluster_wait(); }

// One grid ends before the next begins.
inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}

template <int kRegisters>
inline void setmaxnreg_inc() {}
template <int kRegisters>
inline void setmaxnreg_dec() {}

}  // namespace fathom::ptx
