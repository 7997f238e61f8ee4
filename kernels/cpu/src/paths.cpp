#include "paths.hpp"

#include <stdexcept>

namespace sparsight {
namespace {

bool supported(Path path) {
    if (path == Path::portable) return true;
#if SPARSIGHT_X86
    // libgcc also asks the operating system (XCR0) whether it saves the wide registers.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                      __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    if (path == Path::avx2) return avx2;
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi2") &&  // Ice Lake and Zen 4 on: expanding bytes
           __builtin_cpu_supports("avx512vnni");     // and products of bytes
#else
    return false;
#endif
}

const char* name_of(Path path) {
    switch (path) {
        case Path::avx512: return "avx512";
        case Path::avx2: return "avx2";
        default: return "portable";
    }
}

}  // namespace

std::vector<std::string> available_paths() {
    std::vector<std::string> names;
    for (const Path path : {Path::avx512, Path::avx2, Path::portable}) {
        if (supported(path)) names.emplace_back(name_of(path));
    }
    return names;
}

Path parse_path(const std::string& name) {
    for (const Path path : {Path::avx512, Path::avx2, Path::portable}) {
        if (name == name_of(path) && supported(path)) return path;
    }
    throw std::invalid_argument("no such path on this machine: " + name);
}

}  // namespace sparsight
