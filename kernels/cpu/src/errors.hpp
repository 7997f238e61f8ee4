// What the kernels throw; module.cpp translates each to the Python class of the same meaning.
#pragma once

#include <stdexcept>

namespace sparsight {

// Stored arrays contradict each other: sparsight.errors.CorruptIndexError.
struct CorruptIndex : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A CancelFlag was set: sparsight.errors.SearchStoppedError.
struct SearchStopped : std::runtime_error {
    SearchStopped() : std::runtime_error("the search was cancelled") {}
};

// A CancelFlag's deadline has passed: sparsight.errors.DeadlineError.
struct DeadlinePassed : std::runtime_error {
    DeadlinePassed() : std::runtime_error("the search's deadline passed before it finished") {}
};

}  // namespace sparsight
