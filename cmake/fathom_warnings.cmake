# The warning and code-generation flags every Fathom target of this build shares.
add_library(fathom_warnings INTERFACE)
target_compile_options(
  fathom_warnings
  INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual -Wnull-dereference
            -Wimplicit-fallthrough
            -Wno-missing-field-initializers  # designated initialisers leave optional arguments out
            # GCC 12 at -O3 sees overlapping copies in `"text" + std::string` that are not there (GCC bug 105651).
            $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
            # GCC 13 takes every reference that comes back from a call with a temporary argument for one to that temporary,
            # and sees a null pointer in the copy of a std::vector. GCC 12 still looks for null pointers.
            $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-dangling-reference>
            $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-null-dereference>
            # A product and a sum are rounded separately unless the source says fma: every backend must give the same bytes.
            -ffp-contract=off
            $<$<BOOL:${FATHOM_WERROR}>:-Werror>)
# Vector targets we ship: the portable baseline, SSE4, AVX2 and AVX-512 (bits of hwy/detect_targets.h). Bits 4
# and 6 are AVX3_SPR and AVX3_ZEN4, which Highway 1.0.3 does not name yet and 1.0.7 would build as well.
target_compile_definitions(fathom_warnings
                           INTERFACE "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_AVX3_DL|(1LL<<6)|(1LL<<4))")
# The interface library travels inside fathom's export set because a static fathom names it in $<LINK_ONLY>.
install(TARGETS fathom_warnings EXPORT fathom)
