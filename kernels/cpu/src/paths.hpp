// The compiled implementations and which of them this processor can run.
//
// Functions for one instruction set carry __attribute__((target(...))) rather than sitting in a file compiled with
// -march: the build needs no flags, and no inline function of the standard library can be compiled for a processor
// that is not there and then be chosen by the linker for all.
#pragma once

#include <string>
#include <vector>

#if defined(__x86_64__)
#define SPARSIGHT_X86 1
#define SPARSIGHT_AVX2 __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt")))
#define SPARSIGHT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,avx2,fma,f16c,bmi,bmi2,popcnt")))
#else
#define SPARSIGHT_X86 0
#endif

namespace sparsight {

enum class Path { portable, avx2, avx512 };

// Names of the paths this processor can run, fastest first; "portable" is always there.
std::vector<std::string> available_paths();

// The path of a name; throws std::invalid_argument if it is unknown or this processor cannot run it.
Path parse_path(const std::string& name);

}  // namespace sparsight
