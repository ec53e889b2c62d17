// mint PEM KID ISSUER APPLICATION_ID PLAYER_ID [EMAIL [USERNAME]]
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v4"
)

func main() {
	args := append(os.Args[1:], "", "")
	pem, err := os.ReadFile(args[0])
	if err != nil {
		log.Fatal(err)
	}
	key, err := jwt.ParseECPrivateKeyFromPEM(pem)
	if err != nil {
		log.Fatal(err)
	}

	now := time.Now().Unix() // seconds
	claims := jwt.MapClaims{"iss": args[2], "aud": args[3], "sub": args[4], "iat": now, "exp": now + 300}
	if args[5] != "" {
		claims["email"] = args[5]
	}
	if args[6] != "" {
		claims["username"] = args[6]
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = args[1]
	token.Header["typ"] = "at+jwt"
	signed, err := token.SignedString(key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(signed)
}
