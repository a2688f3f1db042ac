// Copies that land later, and the products of warpgroups.
#include <array>
#include <cmath>
#include <cstring>

#include "emulator/state.hpp"
#include "emulator/tensor_map.hpp"

namespace fathom::emulator {
namespace {

constexpr u32 kAddressMask = (1u << kRankShift) - 1;

// Bytes of a range that copies to shared memory have read since somebody asked for them.
struct {
  std::uintptr_t begin = 0;
  std::size_t size = 0;
  u64 read = 0;
} watched;
void count_read(const void* from, u32 bytes) {
  if (reinterpret_cast<std::uintptr_t>(from) - watched.begin < watched.size) watched.read += bytes;
}

void start(std::function<void()> run) {
  if (happens_early()) {
    run();
  } else {
    cluster().operations.push_back({std::move(run), 0});
  }
}

EncodedMap read_map(const void* map) {
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0) fail("a tensor map is not aligned to 64 bytes");
  EncodedMap m;
  std::memcpy(&m, map, sizeof m);
  if (m.mark != kMapMark) fail("a tensor map that nobody encoded");
  return m;
}

/// The swizzle exchanges bits of an address, not of an offset.
u32 swizzled(u32 address, int bits) { return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4); }

/// visit(shared address, global address or null if outside) for every 16 bytes of a box.
template <class Visit>
void for_each_unit(const EncodedMap& m, u32 shared, const std::array<int, 5>& at, Visit visit) {
  const u64 row_bytes = m.box[0] * m.stride[0];
  u64 rows = 1;
  for (int axis = 1; axis < m.rank; ++axis) rows *= m.box[axis];
  for (u64 row = 0; row < rows; ++row) {
    u64 rest = row;
    bool inside = true;
    u8* begin = m.data;
    for (int axis = 1; axis < m.rank; ++axis) {
      const std::int64_t index =
          at[static_cast<std::size_t>(axis)] + static_cast<std::int64_t>(rest % m.box[axis]);
      rest /= m.box[axis];
      inside = inside && index >= 0 && index < static_cast<std::int64_t>(m.size[axis]);
      begin += index * static_cast<std::int64_t>(m.stride[axis]);
    }
    for (u64 byte = 0; byte < row_bytes; byte += 16) {
      const u32 to = swizzled(shared + static_cast<u32>(row * row_bytes + byte), m.swizzle);
      const std::int64_t first =
          at[0] * static_cast<std::int64_t>(m.stride[0]) + static_cast<std::int64_t>(byte);
      const std::int64_t end = static_cast<std::int64_t>(m.size[0] * m.stride[0]);
      visit(to, begin, first, inside ? end : std::int64_t{0});
    }
  }
}
u32 box_bytes(const EncodedMap& m) {
  u64 bytes = m.stride[0];
  for (int axis = 0; axis < m.rank; ++axis) bytes *= m.box[axis];
  return static_cast<u32>(bytes);
}
void expect_box_alignment(const EncodedMap& m, u32 address) {
  const u32 needed = m.swizzle == 0 ? 128 : 128u << m.swizzle;
  if ((address & kAddressMask) % needed != 0) fail("a box in shared memory is not aligned for its swizzle");
}
std::array<int, 5> coordinates(const EncodedMap& m, int rank, const int* at) {
  if (rank != m.rank) fail("a copy of another number of axes than its tensor map has");
  std::array<int, 5> result{};
  for (int axis = 0; axis < rank; ++axis) result[static_cast<std::size_t>(axis)] = at[axis];
  return result;
}

float e4m3(u8 code) {
  static const auto table = [] {
    std::array<float, 256> values{};
    for (unsigned i = 0; i < 256; ++i) {
      const int exponent = static_cast<int>(i >> 3 & 15);
      const auto mantissa = static_cast<float>(i & 7);
      float value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
      if ((i & 127) == 127) value = std::nanf("");
      values[i] = i < 128 ? value : -value;
    }
    return values;
  }();
  return table[code];
}

/// Reads operands as the tensor cores do: through a descriptor, with the 128-byte swizzle.
struct Operand {
  Operand(Block& block, u64 descriptor)
      : home(block),
        start(static_cast<u32>(descriptor & 0x3FFF) << 4),
        leading(static_cast<u32>(descriptor >> 16 & 0x3FFF) << 4),
        stride(static_cast<u32>(descriptor >> 32 & 0x3FFF) << 4) {
    if (descriptor >> 62 != 1) fail("a product's operand without the 128-byte swizzle");
    if ((descriptor >> 49 & 7) != 0) fail("a product's operand with a base offset");
  }
  const u8* sixteen_bytes(u32 offset) const { return bytes_of(home, swizzled(start + offset, 3), 16); }

  /// Row-major, k last: `bytes` of k for one row.
  template <class Value>
  void row(u32 row, u32 bytes, Value value) const {
    for (u32 byte = 0; byte < bytes; byte += 16)
      value(byte, sixteen_bytes(row / 8 * stride + row % 8 * 128 + byte));
  }
  Block& home;
  u32 start, leading, stride;
};

float bf16(const u8* at) {
  std::uint16_t half = 0;
  std::memcpy(&half, at, 2);
  const u32 bits = u32{half} << 16;
  float value = 0;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// rows of [K] as [K][rows]
void read_operand(const Operand& from, bool fp8, u32 rows, float* to) {
  for (u32 r = 0; r < rows; ++r) {
    from.row(r, 32, [&](u32 byte, const u8* sixteen) {
      for (u32 i = 0; i < 16; i += fp8 ? 1 : 2) {
        const u32 k = (byte + i) / (fp8 ? 1 : 2);
        to[k * rows + r] = fp8 ? e4m3(sixteen[i]) : bf16(sixteen + i);
      }
    });
  }
}
void read_transposed(const Operand& from, u32 columns, float* to) {
  for (u32 k = 0; k < 16; ++k) {
    for (u32 n = 0; n < columns; n += 8) {
      const u8* sixteen =
          from.sixteen_bytes(n / 64 * from.leading + k / 8 * from.stride + k % 8 * 128 + n % 64 * 2);
      for (u32 i = 0; i < 8; ++i) to[k * columns + n + i] = bf16(sixteen + 2 * i);
    }
  }
}

/// A thread has columns 2 (lane % 4) and the next, and those 8 further, of rows lane / 4 and 8 further of its
/// warp.
void read_registers(const std::vector<std::array<u32, 4>>& rows, float* to) {
  for (u32 t = 0; t < 128; ++t) {
    for (u32 i = 0; i < 8; ++i) {
      const u32 row = 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2);
      const u32 bits = i % 2 == 0 ? rows[t][i / 2] << 16 : rows[t][i / 2] & 0xffff0000u;
      std::memcpy(&to[(2 * (t % 4) + i % 2 + 8 * (i / 4)) * 64 + row], &bits, 4);
    }
  }
}

void multiply(Block& block, Product& product) {
  const u32 depth = product.fp8 ? 32 : 16;
  const auto columns = static_cast<u32>(product.columns);
  static float a[32 * 64], b[32 * 256], d[64 * 256];
  static double exact[256];
  if (!product.rows.empty()) {
    read_registers(product.rows, a);
  } else if (product.transposed == 'a') {
    read_transposed(Operand(block, product.a), 64, a);
  } else {
    read_operand(Operand(block, product.a), product.fp8, 64, a);
  }
  if (product.transposed == 'b') {
    read_transposed(Operand(block, product.b), columns, b);
  } else {
    read_operand(Operand(block, product.b), product.fp8, columns, b);
  }
  for (u32 row = 0; row < 64; ++row) {
    float* sums = d + row * columns;
    const auto add = [&](auto* to) {
      for (u32 n = 0; n < columns; ++n) to[n] = 0;
      for (u32 k = 0; k < depth; ++k) {
        const float value = a[k * 64 + row];
        const float* other = b + k * columns;
        for (u32 n = 0; n < columns; ++n) to[n] += value * other[n];
      }
    };
    if (product.fp8) {
      add(sums);
    } else {  // one rounding, so that the sum is that of mma.sync, which has k in another order
      add(exact);
      for (u32 n = 0; n < columns; ++n) sums[n] = static_cast<float>(exact[n]);
    }
  }
  for (u32 t = 0; t < 128; ++t) {
    float* mine = product.d[t];
    for (u32 i = 0; i < columns / 2; ++i) {
      const u32 row = 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2);
      const u32 column = 8 * (i / 4) + 2 * (t % 4) + i % 2;
      const float sum = d[row * columns + column];
      mine[i] = product.add ? mine[i] + sum : sum;
    }
  }
  product.done = true;
}

std::string warpgroup_reason(const Thread&) { return "the other warps at wgmma.wait_group"; }

}  // namespace

/// For tests of what a kernel reads: how many bytes copies have read of the range that the last call named.
extern "C" __attribute__((visibility("default"))) u64 fathom_emulator_bytes_read(const void* begin,
                                                                                 std::size_t size) {
  const u64 read = watched.read;
  watched = {reinterpret_cast<std::uintptr_t>(begin), size, 0};
  return read;
}

void copy_async(unsigned to, const void* from, unsigned bytes, bool live) {
  Block& block = *self().home;
  if (to % bytes != 0 || (live && reinterpret_cast<std::uintptr_t>(from) % bytes != 0))
    fail("cp.async of misaligned bytes");
  enqueue(self().copies, [&block, to, from, bytes, live] {
    u8* target = bytes_of(block, to, bytes);
    if (live) {
      std::memcpy(target, from, bytes);
    } else {
      std::memset(target, 0, bytes);
    }
  });
  if (happens_early()) drain(self().copies, -1);
}
void copy_async_arrive(unsigned barrier) {
  Block& block = *self().home;
  enqueue(self().copies, [&block, barrier] { arrive(block, barrier); });
}
void copy_async_wait() { drain(self().copies, -1); }

void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
  if (to % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
    fail("a bulk copy of other than whole 16 bytes");
  Block& block = *self().home;
  start([&block, to, from, bytes, barrier] {
    if (block.live == 0) fail("a bulk copy lands in a block that has ended");
    std::memcpy(bytes_of(block, to, bytes), from, bytes);
    count_read(from, bytes);
    complete_bytes(block, barrier, bytes);
  });
}
void store_async(unsigned to, unsigned value, unsigned barrier) {
  Block& target = block_of(to);
  if (&block_of(barrier) != &target) fail("st.async to one block that is counted in another");
  start([&target, to, value, barrier] {
    if (target.live == 0) fail("st.async lands in a block that has ended");
    std::memcpy(bytes_of(target, to, 4), &value, 4);
    complete_bytes(target, barrier, 4);
  });
}

void tensor_load(unsigned to, const void* map, unsigned barrier, int rank, const int* at, unsigned blocks) {
  const EncodedMap m = read_map(map);
  expect_box_alignment(m, to);
  const std::array<int, 5> first = coordinates(m, rank, at);
  if (blocks == 0) blocks = 1u << self().rank;
  for (u32 target = 0; target < 16; ++target) {
    if ((blocks >> target & 1) == 0) continue;
    if (target >= cluster().blocks.size()) fail("a multicast to a block that the cluster does not have");
    Block& block = cluster().blocks[target];
    start([m, &block, to, barrier, first] {
      if (block.live == 0) fail("a box lands in a block that has ended");
      for_each_unit(m, to & kAddressMask, first,
                    [&](u32 address, const u8* row, std::int64_t byte, std::int64_t end) {
                      u8* target_bytes = bytes_of(block, address, 16);
                      if (byte >= 0 && byte + 16 <= end) {
                        std::memcpy(target_bytes, row + byte, 16);
                        count_read(row + byte, 16);
                        return;
                      }
                      for (std::int64_t i = 0; i < 16; ++i)
                        target_bytes[i] = byte + i >= 0 && byte + i < end ? row[byte + i] : u8{0};
                    });
      complete_bytes(block, barrier & kAddressMask, box_bytes(m));
    });
  }
}
void tensor_store(const void* map, unsigned from, int rank, const int* at) {
  const EncodedMap m = read_map(map);
  expect_box_alignment(m, from);
  const std::array<int, 5> first = coordinates(m, rank, at);
  Block& block = *self().home;
  enqueue(self().stores, [m, &block, from, first] {
    for_each_unit(m, from, first, [&](u32 address, u8* row, std::int64_t byte, std::int64_t end) {
      // The engine writes whole units of 16 bytes, also where a row ends within one.
      if (byte >= 0 && byte < end) std::memcpy(row + byte, bytes_of(block, address, 16), 16);
    });
  });
}
void bulk_commit() { ++self().stores.commits; }
void bulk_wait_read() { drain(self().stores, 0); }

void wgmma(bool fp8, int columns, float* d, unsigned long long a, unsigned long long b, bool add,
           char transposed, const unsigned* rows) {
  Thread& thread = self();
  Warpgroup& group = thread.home->warpgroups[static_cast<std::size_t>(thread.linear / 128)];
  const u32 index = thread.products++ - group.first;
  if (index > group.products.size()) fail("a warp issues a product that the others have not come to");
  if (index == group.products.size()) {
    group.products.push_back({fp8, add, transposed, columns, a, b, thread.product_commits, 0, false, {}});
    if (rows != nullptr) group.products.back().rows.resize(128);
  }
  Product& product = group.products[index];
  if (product.fp8 != fp8 || product.columns != columns || product.a != a || product.b != b ||
      product.add != add || product.transposed != transposed || product.group != thread.product_commits)
    fail("the threads of a warpgroup disagree about a product");
  product.d[thread.linear % 128] = d;
  if (rows != nullptr) std::copy_n(rows, 4, product.rows[thread.linear % 128].begin());
  if (++product.issued == 128 && happens_early()) {
    for (Product& earlier : group.products) {
      if (!earlier.done && earlier.issued == 128) multiply(*thread.home, earlier);
    }
  }
}
void wgmma_commit() { ++self().product_commits; }
void wgmma_wait(int pending) {
  Thread& thread = self();
  Warpgroup& group = thread.home->warpgroups[static_cast<std::size_t>(thread.linear / 128)];
  if (group.waiting.size() < 127) {
    group.waiting.push_back(&thread);
    wait(warpgroup_reason);
    return;
  }
  while (!group.products.empty() &&
         group.products.front().group + static_cast<u32>(pending) < thread.product_commits) {
    Product& product = group.products.front();
    if (product.issued != 128) fail("the threads of a warpgroup disagree about a product");
    if (!product.done) multiply(*thread.home, product);
    group.products.pop_front();
    ++group.first;
  }
  wake_all(group.waiting);
}

}  // namespace fathom::emulator
