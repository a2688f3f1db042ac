#include "core/cpu_target.hpp"

#include <hwy/highway.h>

#include <cstdlib>
#include <mutex>
#include <string>

#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

bool cpu_has_avx512_bf16() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

struct Target {
  std::string_view name;
  std::int64_t highway_bits;  // the Highway targets that stay enabled
  bool bf16;
};

constexpr std::int64_t kBaseline = HWY_STATIC_TARGET;
constexpr std::int64_t kSse4 = kBaseline | HWY_SSE4;
constexpr std::int64_t kAvx2 = kSse4 | HWY_AVX2;
constexpr std::int64_t kAvx512 = kAvx2 | HWY_AVX3;

// Best first. Highway's own detection decides which of its targets the CPU has.
constexpr Target kTargets[] = {{"avx512_bf16", kAvx512, true},
                               {"avx512", kAvx512, false},
                               {"avx2", kAvx2, false},
                               {"sse4", kSse4, false},
                               {"baseline", kBaseline, false}};

// What the CPU has, asked once before any target is disabled.
std::int64_t detected_bits() {
  static const std::int64_t bits = hwy::SupportedTargets() & HWY_TARGETS;
  return bits;
}

bool available(const Target& target) {
  if (target.bf16 && !cpu_has_avx512_bf16()) return false;
  const std::int64_t best =
      target.highway_bits & ~(target.highway_bits - 1);  // a lower bit is a better target
  return (detected_bits() & best) != 0;
}

const Target* g_target = nullptr;  // written once, under the flag below
std::once_flag g_once;

void select_once() {
  const char* wanted = std::getenv("FATHOM_CPU_TARGET");
  const bool any = wanted == nullptr || *wanted == '\0';
  std::string names;
  for (const Target& target : kTargets) {
    if (!available(target)) continue;
    names += (names.empty() ? "" : ", ") + std::string(target.name);
    if (any || target.name == wanted) {
      hwy::DisableTargets(detected_bits() & ~target.highway_bits);
      hwy::GetChosenTarget().Update(
          hwy::SupportedTargets());  // HWY_DYNAMIC_DISPATCH now names the function itself
      g_target = &target;
      return;
    }
  }
  throw InvalidArgument("FATHOM_CPU_TARGET must be one of " + names + ", got '" + (any ? "" : wanted) + "'");
}

}  // namespace

void select_cpu_target() { std::call_once(g_once, select_once); }

bool has_avx512_bf16() {
  select_cpu_target();
  return g_target->bf16;
}

std::string_view cpu_target() {
  select_cpu_target();
  return g_target->name;
}

std::vector<std::string_view> cpu_targets() {
  std::vector<std::string_view> names;
  for (const Target& target : kTargets) {
    if (available(target)) names.push_back(target.name);
  }
  return names;
}

}  // namespace fathom
