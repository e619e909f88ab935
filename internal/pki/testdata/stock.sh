#!/bin/sh
# SPDX-FileCopyrightText: The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Makes certificates in the form of a stock Elkeid installation: a CA of X.509
# version 1 without extensions, an RSA server certificate with the name
# elkeid.com and no extended key usage, a client certificate of version 1.
# Run it in this directory with OpenSSL 1.1 to 3.3; later ones write version 3.
set -eu
days=36500
openssl req -new -newkey rsa:2048 -nodes -keyout ca.key -subj "/O=Stock/CN=stock ca" -out ca.csr
openssl x509 -req -in ca.csr -signkey ca.key -sha256 -days $days -out stock-ca.crt
for name in server client; do
	openssl req -new -newkey rsa:2048 -nodes -keyout stock-$name.key -subj "/O=Stock/CN=elkeid.com" -out $name.csr
done
printf 'subjectAltName=DNS:elkeid.com\n' > san.ext
openssl x509 -req -in server.csr -CA stock-ca.crt -CAkey ca.key -set_serial 2 -sha256 -days $days -extfile san.ext -out stock-server.crt
openssl x509 -req -in client.csr -CA stock-ca.crt -CAkey ca.key -set_serial 3 -sha256 -days $days -out stock-client.crt
rm -f ca.key ./*.csr san.ext
