/* fake_read.h - stands in for the backends of gather_kv and dequantize_kv, beside fake_backend.h: records what the last
 * launch was given. */
#ifndef FAKE_READ_H_
#define FAKE_READ_H_

#include "fake_backend.h"
#include "formats/read.h"

extern fm_read fake_read;

#endif /* FAKE_READ_H_ */
