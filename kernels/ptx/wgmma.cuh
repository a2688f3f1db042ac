// Warpgroup matrix products: D[64, N] += A[64, K] * B[N, K]^T, both operands in shared memory with k as the last
// axis and the 128-byte swizzle. K is 32 for e4m3 and 16 for bf16: 32 bytes.
#pragma once
#include "ptx/types.cuh"

namespace fathom::ptx {

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of a register across a wait or a fence.
__device__ __forceinline__ void keep(float& value) { asm volatile("" : "+f"(value)::"memory"); }

/// Describes an operand at a shared address aligned to 1024 bytes: rows of 128 bytes, 8 rows to a swizzle atom of
/// 1024 bytes. The low word counts in 16 bytes, so + 2 is the next step along k.
__device__ __forceinline__ u32 wgmma_descriptor_low(u32 address) { return (address & 0x3FFFF) >> 4 | 1u << 16; }
__device__ __forceinline__ u64 wgmma_descriptor(u32 low) {
  return static_cast<u64>(low) | static_cast<u64>(64u | 1u << 30) << 32;
}

/// An operand that lies in memory with k as first axis and is read transposed: rows of 64 elements (128 bytes), 8
/// rows to a swizzle atom of 1024 bytes, and the next 64 columns `block` bytes further. + 128 is the next step of 16
/// along k.
__device__ __forceinline__ u32 wgmma_transposed_low(u32 address, u32 block) {
  return (address & 0x3FFFF) >> 4 | block >> 4 << 16;
}

/// The product with N columns: `multiply(d, a, b, add)`; with add = 0 the old contents of d do not count.
/// d[4j + 2h + c] of a thread is row 16 * warp + lane / 4 + 8h, column 8j + 2 * (lane % 4) + c.
template <bool kFp8, int kN>
struct Wgmma;

// Accumulators come in fours, one for each eight columns. FATHOM_L<count> names them in the text of the
// instruction, FATHOM_D<count> lists the operands.
#define FATHOM_F4(i) "+f"(d[4 * i]), "+f"(d[4 * i + 1]), "+f"(d[4 * i + 2]), "+f"(d[4 * i + 3])
#define FATHOM_L1 "%0, %1, %2, %3"
#define FATHOM_D1 FATHOM_F4(0)
#define FATHOM_L2 FATHOM_L1 ", " "%4, %5, %6, %7"
#define FATHOM_D2 FATHOM_D1, FATHOM_F4(1)
#define FATHOM_L3 FATHOM_L2 ", " "%8, %9, %10, %11"
#define FATHOM_D3 FATHOM_D2, FATHOM_F4(2)
#define FATHOM_L4 FATHOM_L3 ", " "%12, %13, %14, %15"
#define FATHOM_D4 FATHOM_D3, FATHOM_F4(3)
#define FATHOM_L5 FATHOM_L4 ", " "%16, %17, %18, %19"
#define FATHOM_D5 FATHOM_D4, FATHOM_F4(4)
#define FATHOM_L6 FATHOM_L5 ", " "%20, %21, %22, %23"
#define FATHOM_D6 FATHOM_D5, FATHOM_F4(5)
#define FATHOM_L7 FATHOM_L6 ", " "%24, %25, %26, %27"
#define FATHOM_D7 FATHOM_D6, FATHOM_F4(6)
#define FATHOM_L8 FATHOM_L7 ", " "%28, %29, %30, %31"
#define FATHOM_D8 FATHOM_D7, FATHOM_F4(7)
#define FATHOM_L9 FATHOM_L8 ", " "%32, %33, %34, %35"
#define FATHOM_D9 FATHOM_D8, FATHOM_F4(8)
#define FATHOM_L10 FATHOM_L9 ", " "%36, %37, %38, %39"
#define FATHOM_D10 FATHOM_D9, FATHOM_F4(9)
#define FATHOM_L11 FATHOM_L10 ", " "%40, %41, %42, %43"
#define FATHOM_D11 FATHOM_D10, FATHOM_F4(10)
#define FATHOM_L12 FATHOM_L11 ", " "%44, %45, %46, %47"
#define FATHOM_D12 FATHOM_D11, FATHOM_F4(11)
#define FATHOM_L13 FATHOM_L12 ", " "%48, %49, %50, %51"
#define FATHOM_D13 FATHOM_D12, FATHOM_F4(12)
#define FATHOM_L14 FATHOM_L13 ", " "%52, %53, %54, %55"
#define FATHOM_D14 FATHOM_D13, FATHOM_F4(13)
#define FATHOM_L15 FATHOM_L14 ", " "%56, %57, %58, %59"
#define FATHOM_D15 FATHOM_D14, FATHOM_F4(14)
#define FATHOM_L16 FATHOM_L15 ", " "%60, %61, %62, %63"
#define FATHOM_D16 FATHOM_D15, FATHOM_F4(15)
#define FATHOM_L17 FATHOM_L16 ", " "%64, %65, %66, %67"
#define FATHOM_D17 FATHOM_D16, FATHOM_F4(16)
#define FATHOM_L18 FATHOM_L17 ", " "%68, %69, %70, %71"
#define FATHOM_D18 FATHOM_D17, FATHOM_F4(17)
#define FATHOM_L19 FATHOM_L18 ", " "%72, %73, %74, %75"
#define FATHOM_D19 FATHOM_D18, FATHOM_F4(18)
#define FATHOM_L20 FATHOM_L19 ", " "%76, %77, %78, %79"
#define FATHOM_D20 FATHOM_D19, FATHOM_F4(19)
#define FATHOM_L21 FATHOM_L20 ", " "%80, %81, %82, %83"
#define FATHOM_D21 FATHOM_D20, FATHOM_F4(20)
#define FATHOM_L22 FATHOM_L21 ", " "%84, %85, %86, %87"
#define FATHOM_D22 FATHOM_D21, FATHOM_F4(21)
#define FATHOM_L23 FATHOM_L22 ", " "%88, %89, %90, %91"
#define FATHOM_D23 FATHOM_D22, FATHOM_F4(22)
#define FATHOM_L24 FATHOM_L23 ", " "%92, %93, %94, %95"
#define FATHOM_D24 FATHOM_D23, FATHOM_F4(23)
#define FATHOM_L25 FATHOM_L24 ", " "%96, %97, %98, %99"
#define FATHOM_D25 FATHOM_D24, FATHOM_F4(24)
#define FATHOM_L26 FATHOM_L25 ", " "%100, %101, %102, %103"
#define FATHOM_D26 FATHOM_D25, FATHOM_F4(25)
#define FATHOM_L27 FATHOM_L26 ", " "%104, %105, %106, %107"
#define FATHOM_D27 FATHOM_D26, FATHOM_F4(26)
#define FATHOM_L28 FATHOM_L27 ", " "%108, %109, %110, %111"
#define FATHOM_D28 FATHOM_D27, FATHOM_F4(27)
#define FATHOM_L29 FATHOM_L28 ", " "%112, %113, %114, %115"
#define FATHOM_D29 FATHOM_D28, FATHOM_F4(28)
#define FATHOM_L30 FATHOM_L29 ", " "%116, %117, %118, %119"
#define FATHOM_D30 FATHOM_D29, FATHOM_F4(29)
#define FATHOM_L31 FATHOM_L30 ", " "%120, %121, %122, %123"
#define FATHOM_D31 FATHOM_D30, FATHOM_F4(30)
#define FATHOM_L32 FATHOM_L31 ", " "%124, %125, %126, %127"
#define FATHOM_D32 FATHOM_D31, FATHOM_F4(31)

#define FATHOM_WGMMA_KIND(fp8, type, k, tail, count, n, a_operand, b_operand, add_operand)                       \
  template <>                                                                                                    \
  struct Wgmma<fp8, n> {                                                                                         \
    static __device__ __forceinline__ void multiply(float (&d)[4 * count], u64 a, u64 b, int add) {              \
      asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, " add_operand                                            \
                   ", 0;\n wgmma.mma_async.sync.aligned.m64n" #n k ".f32." type "." type " {" FATHOM_L##count    \
                   "}, " a_operand ", " b_operand ", p, 1, 1" tail ";\n}"                                        \
                   : FATHOM_D##count                                                                             \
                   : "l"(a), "l"(b), "r"(add));                                                                  \
    }                                                                                                            \
  };
#define FATHOM_WGMMA(count, n, a, b, add)                                    \
  FATHOM_WGMMA_KIND(true, "e4m3", "k32", "", count, n, a, b, add)            \
  FATHOM_WGMMA_KIND(false, "bf16", "k16", ", 0, 0", count, n, a, b, add)

FATHOM_WGMMA(1, 8, "%4", "%5", "%6")
FATHOM_WGMMA(2, 16, "%8", "%9", "%10")
FATHOM_WGMMA(4, 32, "%16", "%17", "%18")
FATHOM_WGMMA(6, 48, "%24", "%25", "%26")
FATHOM_WGMMA(8, 64, "%32", "%33", "%34")
FATHOM_WGMMA(12, 96, "%48", "%49", "%50")
FATHOM_WGMMA(16, 128, "%64", "%65", "%66")
FATHOM_WGMMA(18, 144, "%72", "%73", "%74")
FATHOM_WGMMA(24, 192, "%96", "%97", "%98")
FATHOM_WGMMA(32, 256, "%128", "%129", "%130")


/// D[64, 128] += A[64, 16] * B[16, 128], bf16, with B as wgmma_transposed_low() has it.
struct WgmmaTransposed128 {
  static __device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FATHOM_L16 "}, %64, %65, 1, 1, 1, 0, 1;"
                 : FATHOM_D16
                 : "l"(a), "l"(b));
  }
};

/// The same with A in registers: of rows 16 * warp + lane / 4 and 8 further columns 2 * (lane % 4) and the next, then
/// those 8 columns further.
struct WgmmaRegisters128 {
  static __device__ __forceinline__ void multiply(float (&d)[64], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FATHOM_L16
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : FATHOM_D16
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
};

/// D[64, N] += A[64, 16] * B[N, 16]^T, bf16, with A as wgmma_transposed_low() has it: k is its first axis in memory.
template <int kN>
struct WgmmaTransposedA;

#define FATHOM_WGMMA_TRANSPOSED_A(count, n, a_operand, b_operand)                                                 \
  template <>                                                                                                    \
  struct WgmmaTransposedA<n> {                                                                                   \
    static __device__ __forceinline__ void multiply(float (&d)[4 * count], u64 a, u64 b) {                       \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" FATHOM_L##count "}, " a_operand  \
                   ", " b_operand ", 1, 1, 1, 1, 0;"                                                             \
                   : FATHOM_D##count                                                                             \
                   : "l"(a), "l"(b));                                                                            \
    }                                                                                                            \
  };
FATHOM_WGMMA_TRANSPOSED_A(1, 8, "%4", "%5")
FATHOM_WGMMA_TRANSPOSED_A(2, 16, "%8", "%9")
FATHOM_WGMMA_TRANSPOSED_A(4, 32, "%16", "%17")

}  // namespace fathom::ptx
