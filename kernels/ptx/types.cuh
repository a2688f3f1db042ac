// Fixed-width names for device code, which includes no header of the host or of CUDA.
#pragma once

namespace fathom {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

static_assert(sizeof(u64) == 8 && sizeof(i64) == 8);

}  // namespace fathom
