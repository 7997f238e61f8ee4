// The C++ half of sparsight.kernels.CancelFlag: a byte that Python may set at any time, and a deadline.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "errors.hpp"

namespace sparsight {

struct Stop {
    uint8_t* flag;
    int64_t deadline_ns;  // on time.monotonic_ns()'s clock, which is steady_clock's on Linux; 0 is none

    // Costs a load, and with a deadline a look at the clock (about 25 ns): once per window is cheap, per posting not.
    void check() const {
        if (std::atomic_ref<uint8_t>(*flag).load(std::memory_order_relaxed) != 0) throw SearchStopped();
        if (deadline_ns == 0) return;
        const auto now = std::chrono::steady_clock::now().time_since_epoch();
        if (std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() >= deadline_ns) throw DeadlinePassed();
    }
};

}  // namespace sparsight
