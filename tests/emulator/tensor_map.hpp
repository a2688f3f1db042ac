// What the emulated driver keeps in the 128 opaque bytes of a tensor map.
#pragma once
#include <cstdint>

namespace fathom::emulator {

struct EncodedMap {
  std::uint8_t* data;
  std::uint64_t size[5];    // elements
  std::uint64_t stride[5];  // bytes; the first is an element's
  std::uint16_t box[5];
  std::uint8_t rank;
  std::uint8_t swizzle;  // log2 of the rows of 16 bytes that change places: 0, 1, 2, 3
  std::uint32_t mark;
};
inline constexpr std::uint32_t kMapMark = 0x7E4502A9;
static_assert(sizeof(EncodedMap) <= 128);

}  // namespace fathom::emulator
