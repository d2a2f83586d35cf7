/* fake_write.h - stands in for the backends of append_kv and quantize_kv, beside fake_backend.h: records what the last
 * launch was given. */
#ifndef FAKE_WRITE_H_
#define FAKE_WRITE_H_

#include "fake_backend.h"
#include "formats/write.h"

extern fm_write fake_write;

#endif /* FAKE_WRITE_H_ */
